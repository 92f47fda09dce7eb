#include "predict/kernels/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "predict/kernels/numbers.h"

namespace torchpool::kernels::attention_tests {
namespace {

// One head of texts that lie behind each other in [places, heads * size].
struct Texts {
  Texts(std::int64_t places, std::int64_t heads, std::int64_t head_size)
      : size(head_size),
        stride(heads * head_size),
        q(numbers(places * stride, 1)),
        k(numbers(places * stride, 2)),
        v(numbers(places * stride, 3)) {
    for (float& one : q) one *= 3;  // some weights are near 1
  }

  // Of `length` places from `first` on.
  AttentionHead head(std::int64_t first, std::int64_t length, std::int64_t number, Floats& out) const {
    AttentionHead head;
    const std::int64_t at = first * stride + number * size;
    head.q = q.data() + at;
    head.k = k.data() + at;
    head.v = v.data() + at;
    head.out = out.data() + at;
    head.q_stride = head.k_stride = head.v_stride = head.out_stride = stride;
    head.queries = head.keys = length;
    head.size = size;
    head.scale = 1.0F / std::sqrt(static_cast<float>(size));
    return head;
  }
  Floats results() const { return Floats(q.size(), kNaN); }

  std::int64_t size;
  std::int64_t stride;
  Floats q;
  Floats k;
  Floats v;
};

// By the definition, in double. Returns [queries, size].
Floats expected(const AttentionHead& head) {
  Floats result;
  for (std::int64_t i = 0; i < head.queries; ++i) {
    const std::int64_t keys = head.causal ? i + 1 : head.keys;
    std::vector<double> weights;
    const auto row_of = [&](std::int64_t key) { return head.key == nullptr ? key : head.key[key]; };
    for (std::int64_t key = 0; key < keys; ++key) {
      double score = 0;
      for (std::int64_t d = 0; d < head.size; ++d) {
        score += static_cast<double>(head.q[i * head.q_stride + d]) * head.k[row_of(key) * head.k_stride + d];
      }
      weights.push_back(score * head.scale);
    }
    const double top = *std::max_element(weights.begin(), weights.end());
    double sum = 0;
    for (double& weight : weights) sum += weight = std::exp(weight - top);
    for (std::int64_t d = 0; d < head.size; ++d) {
      double value = 0;
      for (std::int64_t key = 0; key < keys; ++key) {
        value += weights[static_cast<std::size_t>(key)] * head.v[row_of(key) * head.v_stride + d];
      }
      result.push_back(static_cast<float>(value / sum));
    }
  }
  return result;
}

double worst(const AttentionHead& head, const Floats& wanted) {
  double most = 0;
  for (std::int64_t i = 0; i < head.queries; ++i) {
    for (std::int64_t d = 0; d < head.size; ++d) {
      const double off = head.out[i * head.out_stride + d] - wanted[static_cast<std::size_t>(i * head.size + d)];
      most = std::max(most, std::isnan(off) ? 1.0 : std::abs(off));
    }
  }
  return most;
}

class AttentionTest : public ::testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (GetParam() > detected()) GTEST_SKIP() << "the processor has no " << name_of(GetParam());
  }

  const AttentionKernel& kernel() const { return attention_kernel(GetParam()); }

  // In scratch memory that holds NaN, and ends where it says that it does.
  void run(const AttentionHead& head) const {
    constexpr float kGuard = 12345;
    const std::int64_t size = kernel().scratch_size(head.keys, head.size);
    Floats scratch(static_cast<std::size_t>(size + 16), kNaN);
    std::fill(scratch.end() - 16, scratch.end(), kGuard);
    kernel().run(head, scratch.data());
    EXPECT_EQ(std::count(scratch.end() - 16, scratch.end(), kGuard), 16) << head.keys << " keys";
  }
};

TEST_P(AttentionTest, IsItsDefinitionForAnyLengthAndSize) {
  for (const std::int64_t size : {8, 32, 64, 80, 128}) {
    const Texts texts(512, 1, size);
    for (std::int64_t length = 1; length <= 512; length += length < 70 ? 1 : length < 180 ? 55 : 166) {
      Floats out = texts.results();
      for (const bool causal : {false, true}) {
        AttentionHead head = texts.head(0, length, 0, out);
        head.causal = causal;
        run(head);
        ASSERT_LT(worst(head, expected(head)), 2e-6) << length << " places of " << size << (causal ? ", causal" : "");
      }
    }
  }
}

TEST_P(AttentionTest, SumsOverManyKeysInChunks) {
  const Texts texts(900, 1, 16);
  Floats out = texts.results();
  AttentionHead head = texts.head(0, 900, 0, out);
  run(head);
  EXPECT_LT(worst(head, expected(head)), 2e-6);
}

TEST_P(AttentionTest, TakesAnyNumberOfQueriesBesideOne) {
  const Texts texts(80, 2, 32);
  for (const std::int64_t queries : {1, 2, 5, 7, 13, 80}) {
    for (const std::int64_t keys : {1, 3, 17, 80}) {
      Floats out = texts.results();
      AttentionHead head = texts.head(0, keys, 1, out);
      head.queries = queries;
      run(head);
      EXPECT_LT(worst(head, expected(head)), 2e-6) << queries << " queries, " << keys << " keys";
    }
  }
}

TEST_P(AttentionTest, AttendsToTheKeysThatAreNamed) {
  const Texts texts(40, 1, 40);
  std::vector<std::int32_t> odd;
  for (std::int32_t key = 1; key < 40; key += 2) odd.push_back(key);
  Floats out = texts.results();
  AttentionHead head = texts.head(0, 40, 0, out);
  head.keys = static_cast<std::int64_t>(odd.size());
  head.key = odd.data();
  run(head);
  EXPECT_LT(worst(head, expected(head)), 2e-6);
}

TEST_P(AttentionTest, WritesNothingButItsOwn) {
  const Texts texts(30, 3, 8);
  Floats out = texts.results();
  const AttentionHead head = texts.head(10, 7, 1, out);
  run(head);
  for (std::size_t i = 0; i < out.size(); ++i) {
    const auto place = static_cast<std::int64_t>(i) / texts.stride;
    const auto number = static_cast<std::int64_t>(i) % texts.stride / texts.size;
    const bool own = place >= 10 && place < 17 && number == 1;
    EXPECT_EQ(std::isnan(out[i]), !own) << i;
  }
}

TEST_P(AttentionTest, BitsDependOnTheTextOnly) {
  // The same text behind others, in another head, at another distance between rows.
  for (const std::int64_t heads : {1, 2, 5, 12}) {
    for (const std::int64_t length : {1, 7, 13, 58, 180}) {
      Texts alone(length, 1, 32);
      Texts beside(length + 9, heads, 32);
      for (std::int64_t i = 0; i < length; ++i) {
        const std::int64_t from = i * alone.stride;
        const std::int64_t to = (i + 9) * beside.stride + (heads - 1) * 32;
        std::copy_n(alone.q.data() + from, 32, beside.q.data() + to);
        std::copy_n(alone.k.data() + from, 32, beside.k.data() + to);
        std::copy_n(alone.v.data() + from, 32, beside.v.data() + to);
      }
      Floats first = alone.results();
      Floats second = beside.results();
      run(alone.head(0, length, 0, first));
      run(beside.head(9, length, heads - 1, second));
      for (std::int64_t i = 0; i < length; ++i) {
        const float* own = first.data() + i * alone.stride;
        ASSERT_EQ(std::memcmp(own, second.data() + (i + 9) * beside.stride + (heads - 1) * 32, 32 * sizeof(float)), 0)
            << heads << " heads, place " << i << " of " << length;
      }
    }
  }
}

TEST_P(AttentionTest, BitsOfAQueryDependOnNoOther) {
  const Texts texts(58, 1, 64);
  Floats together = texts.results();
  run(texts.head(0, 58, 0, together));
  for (std::int64_t query = 0; query < 58; ++query) {
    Floats alone = texts.results();
    AttentionHead head = texts.head(0, 58, 0, alone);
    head.q += query * texts.stride;
    head.out += query * texts.stride;
    head.queries = 1;
    run(head);
    ASSERT_EQ(std::memcmp(alone.data() + query * 64, together.data() + query * 64, 64 * sizeof(float)), 0) << query;
  }
}

TEST_P(AttentionTest, WeightsOfFarScoresDoNotOverflow) {
  Texts texts(20, 1, 8);
  for (float& one : texts.q) one *= 1e4F;
  Floats out = texts.results();
  const AttentionHead head = texts.head(0, 20, 0, out);
  run(head);
  EXPECT_LT(worst(head, expected(head)), 1e-5);
}

TEST_P(AttentionTest, NaNOfAQueryIsItsRowsOnly) {
  for (const float odd : {kNaN, kInf, -kInf}) {
    Texts texts(19, 1, 16);
    Floats plain = texts.results();
    run(texts.head(0, 19, 0, plain));
    texts.q[5 * 16 + 3] = odd;
    Floats out = texts.results();
    run(texts.head(0, 19, 0, out));
    for (std::size_t i = 0; i < out.size(); ++i) {
      if (i / 16 == 5) {
        EXPECT_TRUE(std::isnan(out[i])) << i;
      } else {
        EXPECT_EQ(out[i], plain[i]) << i;
      }
    }
  }
}

TEST_P(AttentionTest, NaNOfAKeyReachesAllQueriesThatSeeIt) {
  Texts texts(19, 1, 16);
  texts.k[7 * 16 + 2] = kNaN;
  for (const bool causal : {false, true}) {
    Floats out = texts.results();
    AttentionHead head = texts.head(0, 19, 0, out);
    head.causal = causal;
    run(head);
    for (std::size_t i = 0; i < out.size(); ++i) EXPECT_EQ(std::isnan(out[i]), !causal || i / 16 >= 7) << i;
  }
}

TEST_P(AttentionTest, TheOnlyKeyHasAllTheWeight) {
  Texts texts(3, 1, 24);
  Floats out = texts.results();
  AttentionHead head = texts.head(0, 3, 0, out);
  const std::int32_t last = 2;
  head.keys = 1;
  head.key = &last;
  texts.q[24] = kInf;
  run(head);
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (i / 24 == 1) {
      EXPECT_TRUE(std::isnan(out[i])) << i;
    } else {
      EXPECT_EQ(out[i], texts.v[48 + i % 24]) << i;
    }
  }
}

TEST_P(AttentionTest, AllScoresOfMinusInfinityAreNaN) {
  Texts texts(5, 1, 8);
  std::fill(texts.k.begin(), texts.k.end(), 1.0F);
  texts.q[0] = -kInf;
  Floats out = texts.results();
  run(texts.head(0, 5, 0, out));
  EXPECT_TRUE(std::isnan(out[0]));
  EXPECT_FALSE(std::isnan(out[8]));
}

INSTANTIATE_TEST_SUITE_P(Isas, AttentionTest, testing::Values(Isa::kPortable, Isa::kAvx2, Isa::kAvx512),
                         [](const auto& one) { return std::string(name_of(one.param)); });

}  // namespace
}  // namespace torchpool::kernels::attention_tests

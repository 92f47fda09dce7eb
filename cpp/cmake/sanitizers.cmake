# Instrumentation has to cover every object of a program, GoogleTest included, so it is set for the directory
# tree and not per target. libtorch is not instrumented: TSan would report its every hand-over, hence core only.
if(TORCHPOOL_SANITIZE MATCHES "thread" AND TORCHPOOL_BUILD_PREDICT)
  message(FATAL_ERROR "TSan needs every object instrumented and libtorch is not: "
                      "configure with -DTORCHPOOL_BUILD_PYTHON=OFF -DTORCHPOOL_BUILD_PREDICT=OFF.")
endif()

if(TORCHPOOL_SANITIZE)
  list(JOIN TORCHPOOL_SANITIZE "," sanitizers)
  add_compile_options(-fsanitize=${sanitizers} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${sanitizers})
endif()

if(TORCHPOOL_COVERAGE)
  add_compile_options(--coverage -fprofile-update=atomic)  # atomic: the counters are shared by our threads
  add_link_options(--coverage)
endif()

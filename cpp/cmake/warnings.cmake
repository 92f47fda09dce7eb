# torchpool_warnings(<target> [STRICT]): our warning set, for our own targets only.
# STRICT adds -Wconversion, which code that instantiates libtorch's templates cannot pass.
function(torchpool_warnings target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "STRICT" "" "")
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual)
  if(arg_STRICT)
    target_compile_options(${target} PRIVATE -Wconversion -Wsign-conversion)
  endif()
  if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    # The lock annotations in cpp/core are checked by clang; gcc ignores them.
    target_compile_options(${target} PRIVATE -Wthread-safety)
  endif()
  if(TORCHPOOL_WERROR)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
endfunction()

# Asks the Python interpreter for torch and defines the targets torchpool::torch and torchpool::torch_python.
# find_package(Torch) is not used: it drags in the toolchains torch itself was built with (MKL, CUDA, ROCm) and
# global flags, while all that is needed is two include folders and three libraries.
set(TORCHPOOL_TORCH_MIN 2.11)
set(TORCHPOOL_TORCH_MAX 2.13)  # newest minor version supported

set(torch_advice "Install a supported one and build without isolation:\n"
    "    ${Python_EXECUTABLE} -m pip install torch==2.13.0 scikit-build-core cmake ninja\n"
    "    ${Python_EXECUTABLE} -m pip install --no-build-isolation .\n"
    "(The core alone needs no torch: -DTORCHPOOL_BUILD_PYTHON=OFF -DTORCHPOOL_BUILD_PREDICT=OFF.)")

execute_process(
  COMMAND "${Python_EXECUTABLE}" -c
          "import os, torch; print(os.path.dirname(torch.__file__), torch.__version__, int(torch._C._GLIBCXX_USE_CXX11_ABI), sep=';')"
  OUTPUT_VARIABLE torch_answer
  ERROR_VARIABLE torch_error
  RESULT_VARIABLE torch_result
  OUTPUT_STRIP_TRAILING_WHITESPACE)
if(NOT torch_result EQUAL 0)
  message(FATAL_ERROR "torch cannot be imported by ${Python_EXECUTABLE}:\n${torch_error}\n" ${torch_advice})
endif()

list(GET torch_answer 0 torch_root)
list(GET torch_answer 1 torch_full_version)
list(GET torch_answer 2 torch_cxx11_abi)
string(REGEX MATCH "^[0-9]+\\.[0-9]+\\.[0-9]+" TORCHPOOL_TORCH_VERSION_FULL "${torch_full_version}")
string(REGEX MATCH "^[0-9]+\\.[0-9]+" TORCHPOOL_TORCH_VERSION_MINOR "${torch_full_version}")

if(TORCHPOOL_TORCH_VERSION_MINOR VERSION_LESS TORCHPOOL_TORCH_MIN
   OR TORCHPOOL_TORCH_VERSION_MINOR VERSION_GREATER TORCHPOOL_TORCH_MAX)
  message(FATAL_ERROR "torch ${torch_full_version} is installed, but torchpool ${PROJECT_VERSION} supports "
                      "${TORCHPOOL_TORCH_MIN} to ${TORCHPOOL_TORCH_MAX}.\n" ${torch_advice})
endif()
if(NOT torch_cxx11_abi)
  message(FATAL_ERROR "torch ${torch_full_version} was built with the old libstdc++ ABI, which cannot be linked with "
                      "C++20 code of this compiler.\n" ${torch_advice})
endif()
message(STATUS "torch ${torch_full_version} in ${torch_root}")

# SYSTEM through the imported targets: warnings of torch's headers are not ours.
function(torchpool_import_torch_library name)
  find_library(TORCHPOOL_LIB_${name} ${name} PATHS "${torch_root}/lib" NO_DEFAULT_PATH NO_CACHE REQUIRED)
  add_library(torchpool::lib_${name} SHARED IMPORTED GLOBAL)
  set_target_properties(torchpool::lib_${name} PROPERTIES IMPORTED_LOCATION "${TORCHPOOL_LIB_${name}}")
endfunction()
foreach(name c10 torch_cpu torch_python)
  torchpool_import_torch_library(${name})
endforeach()

add_library(torchpool::torch INTERFACE IMPORTED GLOBAL)
target_include_directories(torchpool::torch SYSTEM INTERFACE "${torch_root}/include"
                                                             "${torch_root}/include/torch/csrc/api/include")
target_link_libraries(torchpool::torch INTERFACE torchpool::lib_torch_cpu torchpool::lib_c10)

# pybind11 comes with torch's own headers: the module must share torch's pybind11 internals for types to cross.
add_library(torchpool::torch_python INTERFACE IMPORTED GLOBAL)
target_link_libraries(torchpool::torch_python INTERFACE torchpool::lib_torch_python torchpool::torch)

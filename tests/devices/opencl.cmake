# Device opencl, on whatever the machine has, and on loaders that are broken.
vendor_test(devices.opencl "${OPENCL_HEADERS}" "${OPENCL_LIBRARY}" opencl.cpp CL_TARGET_OPENCL_VERSION=200)
set_tests_properties(devices.opencl PROPERTIES ENVIRONMENT GMEM_DEVICE=opencl)
gmem_asserts_memory(devices.opencl)

set(broken "${CMAKE_CURRENT_BINARY_DIR}/broken_opencl")
file(MAKE_DIRECTORY "${broken}/empty")
file(WRITE "${broken}/text/libOpenCL.so.1" "This is not a library, but it is long enough to have a header of one, as the dynamic linker sees it.\n")
foreach(stand_in IN ITEMS without_functions without_a_context)
	add_library(test_opencl_${stand_in} SHARED stand_in_opencl.c)
	set_target_properties(test_opencl_${stand_in} PROPERTIES OUTPUT_NAME OpenCL SUFFIX .so.1
		LIBRARY_OUTPUT_DIRECTORY "${broken}/${stand_in}")
	add_dependencies(test_unusable test_opencl_${stand_in})
endforeach()
target_compile_definitions(test_opencl_without_a_context PRIVATE WITH_A_DEVICE)
add_library(test_hide_opencl MODULE hide_opencl.c)
unusable_test(opencl.no_library "LD_AUDIT=$<TARGET_FILE:test_hide_opencl>" "LD_LIBRARY_PATH" "ocl-icd-libopencl1")
unusable_test(opencl.not_a_library "LD_LIBRARY_PATH=${broken}/text" "${broken}/text" "invalid ELF header")
unusable_test(opencl.without_functions "LD_LIBRARY_PATH=${broken}/without_functions" "no clGetDeviceIDs"
	"${broken}/without_functions")
unusable_test(opencl.without_a_context "LD_LIBRARY_PATH=${broken}/without_a_context" "nnnn gave no context" "code -6")
unusable_test(opencl.none_of_them "LD_LIBRARY_PATH=${broken}/without_a_context;GMEM_OPENCL_DEVICE=99"
	"GMEM_OPENCL_DEVICE = \"99\" is none of the devices" "the devices are 0: nnnn")
if(OPENCL_LIBRARY)
	unusable_test(opencl.no_platform "OCL_ICD_VENDORS=${broken}/empty" "no platform is installed" "${broken}/empty"
		"pocl-opencl-icd")
endif()

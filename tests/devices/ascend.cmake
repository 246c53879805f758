# Device ascend, on stand-ins for its runtime.
foreach(runtime IN ITEMS new old)
	gmem_test(devices.ascend.${runtime} libgmem::libgmem ascend.cpp)
	target_link_libraries(test_devices.ascend.${runtime} PRIVATE ascendcl_${runtime})
	foreach(kernel IN LISTS guest_kernels)
		guest_test(devices.ascend.${runtime} ${kernel} test_devices.ascend.${runtime} KIND gmem
			ENVIRONMENT GMEM_DEVICE=ascend)
	endforeach()
	foreach(sanitizer IN ITEMS address thread undefined)
		set(sanitized devices.ascend.${runtime}.${sanitizer}_sanitizer)
		sanitized_test(${sanitized} ${sanitizer} ascend.cpp)
		target_link_libraries(test_${sanitized} PRIVATE ascendcl_${runtime}_${sanitizer})
		target_compile_definitions(test_${sanitized} PRIVATE "$<$<STREQUAL:${runtime},old>:BY_CALLBACK>")
	endforeach()
endforeach()
target_compile_definitions(test_devices.ascend.old PRIVATE BY_CALLBACK)

# ascend_library_test(<name> <variable>=<value>... ARGUMENTS <for the program>...): where the runtime is found,
# or what the error says.
gmem_program(ascend_library libgmem::libgmem ascend_library.c)
add_dependencies(test_ascend_library ascendcl_new ascendcl_old ascendcl_cut_off)
file(WRITE "${ascendcl}/text/lib64/libascendcl.so" "This is not a library, but it is long enough to have a header of one, as the dynamic linker sees it.\n")
function(ascend_library_test name)
	cmake_parse_arguments(PARSE_ARGV 1 of "" "" ARGUMENTS)
	add_test(NAME devices.ascend.library.${name} COMMAND test_ascend_library ${of_ARGUMENTS})
	set_tests_properties(devices.ascend.library.${name} PROPERTIES TIMEOUT 60
		ENVIRONMENT "GMEM_DEVICE=ascend;${of_UNPARSED_ARGUMENTS}")
endfunction()
ascend_library_test(by_name "LD_LIBRARY_PATH=${ascendcl}/new/lib64" ARGUMENTS found "${ascendcl}/new/lib64")
ascend_library_test(by_toolkit_home "ASCEND_TOOLKIT_HOME=${ascendcl}/old" "ASCEND_HOME_PATH=${ascendcl}/new"
	ARGUMENTS found "${ascendcl}/old/lib64")
ascend_library_test(by_home_path "ASCEND_TOOLKIT_HOME=/nowhere" "ASCEND_HOME_PATH=${ascendcl}/new/"
	ARGUMENTS found "${ascendcl}/new/lib64")
ascend_library_test(open_already "LD_PRELOAD=${ascendcl}/new/lib64/libascendcl.so" "ASCEND_HOME_PATH=${ascendcl}/old"
	ARGUMENTS found "${ascendcl}/new/lib64")
ascend_library_test(behind_what_is_broken "ASCEND_TOOLKIT_HOME=${ascendcl}/text" "ASCEND_HOME_PATH=${ascendcl}/new"
	ARGUMENTS found "${ascendcl}/new/lib64")
# The folders and the note of the installer, which no test writes on the machine itself.
file(WRITE "${ascendcl}/installed.info" "package=toolkit\nInstall_Path=/opt/vendor\n")
guest_test(devices.ascend.library.by_installer 6.12 test_ascend_library ENVIRONMENT GMEM_DEVICE=ascend
	FILES "/etc/Ascend/ascend_cann_install.info=${ascendcl}/installed.info"
		"/opt/vendor/cann/lib64/libascendcl.so=${ascendcl}/new/lib64/libascendcl.so"
	ARGUMENTS found /opt/vendor/cann/lib64)
guest_test(devices.ascend.library.by_default 6.12 test_ascend_library ENVIRONMENT GMEM_DEVICE=ascend
	FILES "/usr/local/Ascend/ascend-toolkit/latest/${CMAKE_SYSTEM_PROCESSOR}-linux/lib64/libascendcl.so=${ascendcl}/new/lib64/libascendcl.so"
	ARGUMENTS found /usr/local/Ascend/ascend-toolkit/latest)
ascend_library_test(late "ASCEND_HOME_PATH=${ascendcl}/late"
	ARGUMENTS "${ascendcl}/new/lib64/libascendcl.so" "${ascendcl}/new/lib64")
ascend_library_test(nowhere "ASCEND_HOME_PATH=/nowhere/cann" ARGUMENTS refused "not open in this process"
	"ASCEND_TOOLKIT_HOME is not set" "libascendcl.so: cannot open shared object file" "not in /nowhere/cann"
	"not in /usr/local/Ascend/ascend-toolkit/latest" "no /etc/Ascend/ascend_cann_install.info" "set_env.sh")
ascend_library_test(not_a_library "ASCEND_TOOLKIT_HOME=${ascendcl}/text" ARGUMENTS refused
	"${ascendcl}/text/lib64/libascendcl.so: invalid ELF header" "ASCEND_HOME_PATH is not set")
ascend_library_test(without_a_function "ASCEND_HOME_PATH=${ascendcl}/cut_off" ARGUMENTS refused
	"${ascendcl}/cut_off/lib64/libascendcl.so has no aclrtProcessReport" "CANN 5")

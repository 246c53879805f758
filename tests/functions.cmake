# Functions that all folders of tests use.

# gmem_program(<name> <library> <sources>...): the executable test_<name>.
function(gmem_program name library)
	add_executable(test_${name} ${ARGN})
	target_link_libraries(test_${name} PRIVATE ${library})
endfunction()

# gmem_test(<name> <library> <sources>...): a program that is its own test.
function(gmem_test name library)
	gmem_program(${name} ${library} ${ARGN})
	add_test(NAME ${name} COMMAND test_${name})
	set_tests_properties(${name} PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 300)
endfunction()

# gmem_flavour_tests(<name> <sources>... [FLAVOURS <flavour>...] [DEFINITIONS <name>...] [OPTIONS <option>...]): tests
# <name>.<flavour>, compiled once and linked with each flavour of the library (all three unless named).
function(gmem_flavour_tests name)
	cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "FLAVOURS;DEFINITIONS;OPTIONS")
	if(NOT arg_FLAVOURS)
		set(arg_FLAVOURS libgmem api static)
	endif()
	list(GET arg_FLAVOURS 0 first)
	# The headers are the same in each flavour.
	set(objects objects_${name}.${first})
	add_library(${objects} OBJECT ${arg_UNPARSED_ARGUMENTS})
	target_link_libraries(${objects} PRIVATE libgmem::${first})
	target_compile_definitions(${objects} PRIVATE ${arg_DEFINITIONS})
	target_compile_options(${objects} PRIVATE ${arg_OPTIONS})
	foreach(flavour IN LISTS arg_FLAVOURS)
		gmem_test(${name}.${flavour} libgmem::${flavour} $<TARGET_OBJECTS:${objects}>)
		# The archive has C++ in it; the shared libraries have to do with C's linker.
		if(arg_UNPARSED_ARGUMENTS MATCHES "\\.c$" AND NOT flavour STREQUAL "static")
			set_target_properties(test_${name}.${flavour} PROPERTIES LINKER_LANGUAGE C)
		else()
			set_target_properties(test_${name}.${flavour} PROPERTIES LINKER_LANGUAGE CXX)
		endif()
	endforeach()
endfunction()

# gmem_asserts_memory(<test>...): tests that assert page faults, huge pages or memory totals. One runs at a time, so that
# two of them never compete for huge pages.
function(gmem_asserts_memory)
	set_property(TEST ${ARGN} APPEND PROPERTY RESOURCE_LOCK memory)
endfunction()

# gmem_label_tests(<label>...): the last line of a folder: labels for its tests. A test with a sanitizer gets "sanitizer"
# instead.
function(gmem_label_tests)
	get_property(all DIRECTORY PROPERTY TESTS)
	foreach(test IN LISTS all)
		if(test MATCHES "_sanitizer$")
			set_property(TEST ${test} APPEND PROPERTY LABELS sanitizer)
		else()
			set_property(TEST ${test} APPEND PROPERTY LABELS ${ARGN})
		endif()
	endforeach()
endfunction()

# ---- sanitizers -------------------------------------------------------------------------------------------

# Just enough debug information for stack traces; more takes longer to compile.
set(sanitizer_options -g1 -fno-omit-frame-pointer)
set(sanitizer_environment "ASAN_OPTIONS=detect_leaks=0"
	"TSAN_OPTIONS=suppressions=${CMAKE_CURRENT_LIST_DIR}/cpp/thread_sanitizer.txt")

# gmem_sanitize(<target> <sanitizer>): the sanitizer in the C and C++ sides.
function(gmem_sanitize target sanitizer)
	target_compile_options(${target} PRIVATE ${sanitizer_options} -fsanitize=${sanitizer} -fno-sanitize-recover=all)
	target_link_options(${target} PRIVATE -fsanitize=${sanitizer})
endfunction()

# sanitized_test(<name> <sanitizer> <sources>...). libgmem::api, because sanitizers bring a malloc of their own.
function(sanitized_test name sanitizer)
	gmem_test(${name} libgmem::api ${ARGN})
	gmem_sanitize(test_${name} ${sanitizer})
	# Leaks are not looked for: a forked child never frees what its parent's streams hold.
	set_tests_properties(${name} PROPERTIES ENVIRONMENT "${sanitizer_environment}")
endfunction()

# ---- the virtual machine ----------------------------------------------------------------------------------

# The kernels of the virtual machine (tools/machines.py). One with base pages of 64 KiB has to be built: it takes part where
# GMEM_64K_KERNEL is set.
set(guest_architecture "${CMAKE_SYSTEM_PROCESSOR}")
set(guest_kernels 6.1 6.12)
if(guest_architecture STREQUAL "aarch64")
	list(APPEND guest_kernels 6.12-16k)
	if(GMEM_64K_KERNEL)
		list(APPEND guest_kernels 6.12-64k)
	endif()
endif()

# guest_test(<name> <kernel> <program> [KIND <kind>] [ALONE] [ENVIRONMENT <variable>=<value>...] [FILES <path>=<source>...]
# [ARGUMENTS <for the program>...]): the test guest.<kernel>.<name>, which runs a program in a virtual machine with three
# memory nodes. Machines of a kind (plain, gmem or tiers; plain unless named) boot once for all their tests. ALONE: the test
# leaves the machine unfit for others, so it has one to itself.
function(guest_test name kernel program)
	cmake_parse_arguments(PARSE_ARGV 3 arg "ALONE" "KIND" "ENVIRONMENT;FILES;ARGUMENTS")
	if(NOT arg_KIND)
		set(arg_KIND plain)
	endif()
	if(arg_KIND STREQUAL "tiers" AND NOT guest_architecture STREQUAL "x86_64")
		# The machine for aarch64 has no firmware that could report a slower tier.
		return()
	endif()
	set(machine ${kernel}.${arg_KIND})
	if(arg_ALONE)
		string(APPEND machine ".${name}")
	endif()
	foreach(list IN ITEMS ENVIRONMENT FILES ARGUMENTS)
		list(TRANSFORM arg_${list} REPLACE "(.+)" "\"\\1\"")
		list(JOIN arg_${list} ", " ${list})
	endforeach()
	string(CONCAT test "{\"name\": \"guest.${kernel}.${name}\", \"program\": \"$<TARGET_FILE:${program}>\", "
		"\"arguments\": [${ARGUMENTS}], \"environment\": [${ENVIRONMENT}], \"files\": [${FILES}]}")
	set_property(GLOBAL APPEND PROPERTY guest_programs ${program})
	set_property(GLOBAL APPEND PROPERTY guest_machines ${machine})
	set_property(GLOBAL APPEND_STRING PROPERTY guest_tests.${machine} "${test}\n")
	set_property(GLOBAL APPEND PROPERTY guest_names.${machine} guest.${kernel}.${name})
endfunction()

# ---- skipped ----------------------------------------------------------------------------------------------

# skipped_test(<name> <reason>): says why it cannot run here.
function(skipped_test name why)
	add_test(NAME ${name} COMMAND "${Python3_EXECUTABLE}" -c "print('${why}'); raise SystemExit(77)")
	set_tests_properties(${name} PROPERTIES SKIP_RETURN_CODE 77)
endfunction()

# ---- a stand-in for NVIDIA's driver -----------------------------------------------------------------------

# cuda_settings(<test> <stand-in> <words for it>): device cuda on a stand-in (standins/cuda), which is found by its name.
function(cuda_settings test stand_in words)
	set_tests_properties(${test} PROPERTIES ENVIRONMENT
		"GMEM_DEVICE=cuda;LD_LIBRARY_PATH=${standins}/cuda_${stand_in};STANDIN_CUDA=${words};ASAN_OPTIONS=detect_leaks=0")
endfunction()

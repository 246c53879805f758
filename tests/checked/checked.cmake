# The heap, device, thread and fork tests with a library whose heap checks itself (src/heap/checked.rs) and jemalloc
# built with its assertions. The programs are those of the other tests: a library of the same SONAME is preloaded.
#
# That library takes three minutes of processor time to compile, so the test checked.build does it, and no other build. It is a debug build, which
# compiles faster and checks more.
libgmem_cargo_archive(gmem_checked_core checked/libgmem_core.a ARGUMENTS --lib --features=checked-heap PROFILE dev
	ARTIFACT libgmem.a OUTPUT_VARIABLE checked_core)
# Cargo holds a lock on its folder: one after the other.
add_dependencies(gmem_checked_core gmem_core)

add_library(gmem_checked SHARED EXCLUDE_FROM_ALL "${PROJECT_SOURCE_DIR}/cpp/heap.cpp" "${PROJECT_SOURCE_DIR}/cpp/malloc.cpp")
add_dependencies(gmem_checked gmem_checked_core)
target_compile_options(gmem_checked PRIVATE -fno-builtin -fvisibility=default ${LIBGMEM_TLS_OPTIONS})
target_compile_definitions(gmem_checked PRIVATE LIBGMEM_CHECKED_HEAP)
target_include_directories(gmem_checked PRIVATE "${PROJECT_SOURCE_DIR}/include" "${GMEM_GENERATED_INCLUDE}")
target_link_libraries(gmem_checked PRIVATE "-Wl,--whole-archive,${checked_core},--no-whole-archive"
	Threads::Threads ${CMAKE_DL_LIBS} m)
target_link_options(gmem_checked PRIVATE "LINKER:--version-script,${PROJECT_BINARY_DIR}/gmem.map"
	LINKER:-Bsymbolic-functions LINKER:-z,nodelete)
set_target_properties(gmem_checked PROPERTIES OUTPUT_NAME gmem VERSION ${PROJECT_VERSION}
	SOVERSION ${PROJECT_VERSION_MAJOR} LINK_DEPENDS "${checked_core}"
	LIBRARY_OUTPUT_DIRECTORY "${CMAKE_CURRENT_BINARY_DIR}/checked")

add_test(NAME checked.build
	COMMAND "${CMAKE_COMMAND}" --build "${PROJECT_BINARY_DIR}" --config $<CONFIG> --target gmem_checked)
# Others that run Cargo in the same profile would overwrite the archive before it is copied.
set_tests_properties(checked.build PROPERTIES LABELS checked TIMEOUT 900 COST 80 FIXTURES_SETUP checked
	RESOURCE_LOCK cargo_debug)

# checked_test(<name> <program> [<argument>...]): checked.<name>.
function(checked_test name program)
	add_test(NAME checked.${name} COMMAND ${program} ${ARGN})
	set_tests_properties(checked.${name} PROPERTIES LABELS checked TIMEOUT 300 SKIP_RETURN_CODE 77 FIXTURES_REQUIRED checked
		ENVIRONMENT "LD_PRELOAD=$<TARGET_FILE:gmem_checked>")
endfunction()
# checked_cuda_test(<name> <words for the stand-in>): the device "cuda" on the stand-in, whose malloc is the heap's.
function(checked_cuda_test name words)
	checked_test(devices.cuda.${name} test_devices.cuda managed with_its_malloc)
	set_property(TEST checked.devices.cuda.${name} APPEND PROPERTY ENVIRONMENT
		"GMEM_DEVICE=cuda;LD_LIBRARY_PATH=${standins}/cuda_new;STANDIN_CUDA=${words}")
endfunction()

checked_test(heap.linked test_heap.linked.libgmem)
checked_test(heap.model test_heap.model.libgmem 5)
checked_test(heap.stress test_heap.stress 5)
checked_test(heap.introspection test_heap.introspection.libgmem)
checked_test(heap.hard_limit test_heap.hard_limit 64)
# Where memory runs out jemalloc fills its thread caches in part, as arena_ptr_array_fill_small() says, but its caller
# asserts in 5.3.1 that they are filled (tcache.c:611). The heap's own thread caches remain.
set_property(TEST checked.heap.introspection checked.heap.hard_limit APPEND PROPERTY
	ENVIRONMENT "GMEM_MALLOC_CONF=tcache:false")
gmem_asserts_memory(checked.heap.introspection checked.heap.hard_limit)
checked_test(hostile.racing test_hostile.racing)
checked_test(capi.streams test_capi.streams.libgmem)
checked_test(cpp.operators test_cpp.operators.libgmem)
checked_test(streams.executor test_streams.executor)
checked_cuda_test(managed "")
checked_cuda_test(misaligned "misaligned")

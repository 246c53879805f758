/* SPDX-License-Identifier: Apache-2.0 */
/* main stripped|kept: a library that is opened with RTLD_DEEPBIND shares the program's malloc (stripped), unless
 * GMEM_DEEPBIND=keep (kept). The plugin is found by the RUNPATH of this program alone. */
#include <dlfcn.h>
#include <pthread.h>

#include "../../check.h"

#define PLUGIN "libdeepbind_plugin.so"

typedef int (*copy_fn)(const char *);
typedef void *(*allocate_fn)(size_t);
typedef void (*free_fn)(void *);
typedef void *(*address_fn)(void);

/* A function of the plugin; the program ends where there is none. */
static void *function_of(void *plugin, const char *name) {
	void *found = dlsym(plugin, name);
	if (found == NULL) {
		fprintf(stderr, "%s: %s\n", name, dlerror());
		exit(1);
	}
	return found;
}

static void *open_plugin(void) {
	/* $ORIGIN and RUNPATH are those of the caller, so this fails if the caller seems to be libgmem. */
	void *plugin = dlopen(PLUGIN, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
	if (plugin == NULL) {
		fprintf(stderr, "%s\n", dlerror());
		exit(1);
	}
	return plugin;
}

static void *opens_and_closes(void *arg) {
	(void)arg;
	for (int i = 0; i < 50; ++i) {
		NEED(dlclose(open_plugin()) == 0);
	}
	return NULL;
}

static void blocks_cross_the_border(void *plugin) {
	copy_fn copies_and_frees;
	allocate_fn allocate;
	free_fn release;
	*(void **)&copies_and_frees = function_of(plugin, "plugin_copies_and_frees");
	*(void **)&allocate = function_of(plugin, "plugin_allocate");
	*(void **)&release = function_of(plugin, "plugin_free");
	CHECK(copies_and_frees("a short text"));
	const size_t sizes[] = {1, 100, 5000, 100000, (size_t)3 << 20};
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; ++i) {
		char *theirs = allocate(sizes[i]);
		NEED(theirs != NULL);
		memset(theirs, 'x', sizes[i]);
		free(theirs);
		char *ours = malloc(sizes[i]);
		NEED(ours != NULL);
		memset(ours, 'x', sizes[i]);
		release(ours);
	}
}

/* A namespace of its own has a C library of its own, with which its blocks stay. */
static void another_namespace_is_left_alone(const char *path) {
	void *plugin = dlmopen(LM_ID_NEWLM, path, RTLD_NOW | RTLD_DEEPBIND);
	if (plugin == NULL) {
		fprintf(stderr, "%s\n", dlerror());
	}
	CHECK(plugin != NULL);
	if (plugin != NULL) {
		copy_fn copies_and_frees;
		*(void **)&copies_and_frees = function_of(plugin, "plugin_copies_and_frees");
		CHECK(copies_and_frees("another namespace"));
		CHECK_EQUAL(dlclose(plugin), 0);
	}
}

static void errors_are_the_dynamic_linkers(void) {
	CHECK(dlopen("libno-such-plugin.so", RTLD_NOW | RTLD_DEEPBIND) == NULL);
	const char *said = dlerror();
	CHECK(said != NULL && strstr(said, "libno-such-plugin.so") != NULL);
	CHECK(dlopen(PLUGIN, RTLD_DEEPBIND) == NULL); /* neither RTLD_LAZY nor RTLD_NOW */
	CHECK(dlerror() != NULL);
	void *program = dlopen(NULL, RTLD_LAZY);
	CHECK(program != NULL);
	CHECK(program != NULL && dlclose(program) == 0);
}

int main(int argc, char **argv) {
	NEED(argc == 2);
	const int kept = strcmp(argv[1], "kept") == 0;
	/* Several threads make the first call. */
	pthread_t threads[4];
	for (int i = 0; i < 4; ++i) {
		NEED(pthread_create(&threads[i], NULL, opens_and_closes, NULL) == 0);
	}
	for (int i = 0; i < 4; ++i) {
		NEED(pthread_join(threads[i], NULL) == 0);
	}
	void *plugin = open_plugin();
	address_fn address_of_free;
	*(void **)&address_of_free = function_of(plugin, "plugin_address_of_free");
	CHECK_EQUAL(address_of_free() != (void *)free, kept);
	Dl_info info;
	NEED(dladdr((void *)(uintptr_t)address_of_free, &info) != 0);
	if (!kept) {
		blocks_cross_the_border(plugin);
		another_namespace_is_left_alone(info.dli_fname);
	}
	errors_are_the_dynamic_linkers();
	CHECK_EQUAL(dlclose(plugin), 0);
	return checks_result("deepbind");
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The cost of a stack of blocks for each processor (restartable sequences, rseq(2)) next to one for each thread: a pop
 * and a push, nothing else. x86-64, glibc 2.35 or newer, which registers each thread. */
#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/rseq.h>
#include <time.h>

enum { PROCESSORS = 1024, SLOTS = 250, CLASSES = 40, PAIRS = 20000000 };

struct stack {
	void **top;
	void **bottom, **limit;
	void *slots[SLOTS];
};

static struct stack of_processor[PROCESSORS];
static __thread struct stack *of_thread __attribute__((tls_model("initial-exec")));

/* In the sequence from 1 to 2 the thread stays on one processor, or begins again at 4. */
#define SEQUENCE                                                                                                       \
	".pushsection __rseq_cs, \"aw\"\n.balign 32\n3: .long 0, 0\n.quad 1f, 2f - 1f, 4f\n.popsection\n"                  \
	".pushsection __rseq_failure, \"ax\"\n.byte 0x0f, 0xb9, 0x3d\n.long 0x53053053\n4: jmp 0f\n.popsection\n"          \
	"0: leaq 3b(%%rip), %%rax\nmovq %%rax, %%fs:8(%[rseq])\n1:\n"

static inline void *pop_of_processor(void) {
	void *block;
	__asm__ volatile(SEQUENCE "movl %%fs:4(%[rseq]), %%eax\nimulq %[stride], %%rax\naddq %[stacks], %%rax\n"
							  "movq (%%rax), %%rcx\nxorl %%edx, %%edx\ncmpq 8(%%rax), %%rcx\nje 2f\n"
							  "movq -8(%%rcx), %%rdx\nsubq $8, %%rcx\nmovq %%rcx, (%%rax)\n2:\n"
		: "=&d"(block)
		: [rseq] "r"(__rseq_offset), [stride] "i"(sizeof(struct stack)), [stacks] "r"(of_processor)
		: "rax", "rcx", "memory", "cc");
	return block;
}

static inline int push_of_processor(void *block) {
	long pushed;
	__asm__ volatile(SEQUENCE "movl %%fs:4(%[rseq]), %%eax\nimulq %[stride], %%rax\naddq %[stacks], %%rax\n"
							  "movq (%%rax), %%rcx\nxorl %%edx, %%edx\ncmpq 16(%%rax), %%rcx\nje 2f\nmovl $1, %%edx\n"
							  "movq %[block], (%%rcx)\naddq $8, %%rcx\nmovq %%rcx, (%%rax)\n2:\n"
		: "=&d"(pushed)
		: [rseq] "r"(__rseq_offset), [stride] "i"(sizeof(struct stack)), [stacks] "r"(of_processor), [block] "r"(block)
		: "rax", "rcx", "memory", "cc");
	return (int)pushed;
}

static inline void *pop_of_thread(void) {
	struct stack *stack = of_thread;
	return stack->top == stack->bottom ? NULL : *--stack->top;
}

static inline int push_of_thread(void *block) {
	struct stack *stack = of_thread;
	return stack->top == stack->limit ? 0 : (*stack->top++ = block, 1);
}

static void *fill(struct stack *stack) {
	stack->bottom = stack->top = stack->slots;
	stack->limit = stack->slots + SLOTS;
	for (int i = 0; i < SLOTS / 2; ++i) {
		*stack->top++ = stack;
	}
	return stack;
}

static double now(void) {
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

int main(void) {
	for (int i = 0; i < PROCESSORS; ++i) {
		fill(&of_processor[i]);
	}
	of_thread = fill(malloc(sizeof *of_thread));
	double best[2] = {1e9, 1e9};
	for (int round = 0; round < 20; ++round) {
		double begin = now();
		for (int i = 0; i < PAIRS / 20; ++i) {
			void *block = pop_of_thread();
			__asm__ volatile("" : "+r"(block)::"memory");
			push_of_thread(block);
		}
		double middle = now();
		for (int i = 0; i < PAIRS / 20; ++i) {
			void *block = pop_of_processor();
			__asm__ volatile("" : "+r"(block)::"memory");
			push_of_processor(block);
		}
		const double ends[2] = {(middle - begin) / (PAIRS / 20), (now() - middle) / (PAIRS / 20)};
		for (int i = 0; i < 2; ++i) {
			best[i] = ends[i] < best[i] ? ends[i] : best[i];
		}
	}
	printf("thread %.2f ns, processor %.2f ns, ratio %.2f\n", best[0], best[1], best[1] / best[0]);
	return 0;
}

// SPDX-License-Identifier: Apache-2.0
// A coroutine that runs until it suspends, and that nobody waits for.
#pragma once

#include <coroutine>
#include <exception>

struct detached {
	struct promise_type {
		detached get_return_object() noexcept { return {}; }
		std::suspend_never initial_suspend() noexcept { return {}; }
		std::suspend_never final_suspend() noexcept { return {}; }
		void return_void() noexcept {}
		void unhandled_exception() noexcept { std::terminate(); }
	};
};

// SPDX-License-Identifier: Apache-2.0
/// The header of a .safetensors file: 8 bytes of length, then JSON, then the tensors' bytes.
#include "safetensors.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <system_error>
#include <utility>

#include "input_error.hpp"

namespace minilm {
namespace {

constexpr std::uint64_t header_limit = 100'000'000; ///< what the format itself allows

/// The part of JSON that a safetensors header is made of. Every step checks the end of the text.
class header_parser {
public:
	explicit header_parser(std::string_view text) : text_(text) {}

	/// Parse { "key": value, ... }, calling member(key) with the cursor on each value.
	template <class Member>
	void object(Member &&member) {
		expect('{');
		if (accept('}')) {
			return;
		}
		do {
			std::string key = string();
			expect(':');
			member(std::move(key));
		} while (accept(','));
		expect('}');
	}

	[[nodiscard]] std::vector<std::uint64_t> numbers() {
		std::vector<std::uint64_t> out;
		expect('[');
		if (accept(']')) {
			return out;
		}
		do {
			out.push_back(number());
		} while (accept(','));
		expect(']');
		return out;
	}

	[[nodiscard]] std::string string() {
		expect('"');
		std::string out;
		for (;;) {
			const char c = next();
			if (c == '"') {
				return out;
			}
			if (static_cast<unsigned char>(c) < 0x20) {
				fail("a control character in a string");
			}
			out += c == '\\' ? escape() : c;
		}
	}

	void end() {
		skip_space();
		if (at_ != text_.size()) {
			fail("text behind the closing brace");
		}
	}

private:
	[[noreturn]] void fail(const std::string &what) const {
		throw input_error(what + " at byte " + std::to_string(at_) + " of the header");
	}

	char next() {
		if (at_ == text_.size()) {
			fail("the JSON ends too early");
		}
		return text_[at_++];
	}

	/// Tensor names are ASCII; an escape that is not cannot be one that this engine asks for.
	char escape() {
		switch (const char c = next()) {
		case '"':
		case '\\':
		case '/': return c;
		case 'b':
		case 'f':
		case 'n':
		case 'r':
		case 't': return ' ';
		case 'u':
			for (int i = 0; i < 4; ++i) {
				if (std::strchr("0123456789abcdefABCDEF", next()) == nullptr) {
					fail("a bad \\u escape");
				}
			}
			return '?';
		default: fail("a bad escape");
		}
	}

	std::uint64_t number() {
		skip_space();
		const std::size_t start = at_;
		std::uint64_t value = 0;
		while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') {
			const auto digit = static_cast<std::uint64_t>(text_[at_] - '0');
			if (value > (std::numeric_limits<std::uint64_t>::max() - digit) / 10) {
				fail("a number over 64 bits");
			}
			value = value * 10 + digit;
			++at_;
		}
		if (at_ == start) {
			fail("a whole number is missing");
		}
		return value;
	}

	void skip_space() {
		while (at_ < text_.size() && std::memchr(" \t\r\n", text_[at_], 4) != nullptr) {
			++at_;
		}
	}

	bool accept(char c) {
		skip_space();
		if (at_ == text_.size() || text_[at_] != c) {
			return false;
		}
		++at_;
		return true;
	}

	void expect(char c) {
		if (!accept(c)) {
			fail(std::string("'") + c + "' is missing");
		}
	}

	std::string_view text_;
	std::size_t at_ = 0;
};

std::string to_string(const std::vector<std::uint64_t> &shape) {
	std::string out = "[";
	for (const std::uint64_t n : shape) {
		out += (out.size() > 1 ? ", " : "") + std::to_string(n);
	}
	return out + "]";
}

/// @return bytes per element, 0 for a type that the format does not have
std::uint64_t size_of(std::string_view dtype) {
	static constexpr std::pair<std::string_view, std::uint64_t> sizes[] = {{"BOOL", 1}, {"U8", 1}, {"I8", 1},
		{"F8_E5M2", 1}, {"F8_E4M3", 1}, {"I16", 2}, {"U16", 2}, {"F16", 2}, {"BF16", 2}, {"I32", 4}, {"U32", 4},
		{"F32", 4}, {"I64", 8}, {"U64", 8}, {"F64", 8}};
	for (const auto &[name, bytes] : sizes) {
		if (name == dtype) {
			return bytes;
		}
	}
	return 0;
}

/// @return bytes that a tensor of this type and shape takes, or UINT64_MAX if they do not fit
std::uint64_t bytes_of(const safetensors::tensor &t) {
	constexpr std::uint64_t too_many = std::numeric_limits<std::uint64_t>::max();
	std::uint64_t bytes = size_of(t.dtype);
	for (const std::uint64_t n : t.shape) {
		if (n == 0) {
			return 0;
		}
		if (bytes > too_many / n) {
			return too_many;
		}
		bytes *= n;
	}
	return bytes;
}

} // namespace

safetensors::safetensors(std::string path) : path_(std::move(path)) {
	std::error_code failure;
	file_ = gmem::model_file::open(path_.c_str(), failure);
	if (failure) {
		throw input_error(path_ + ": " + failure.message() +
						  "; fetch the model with 'python3 fetch_model.py DIR' and give --model DIR");
	}
	parse_header();
}

void safetensors::fail(std::string what) const {
	// Names come from the file, and a terminal would obey what is not plain text in them.
	std::replace_if(what.begin(), what.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
	throw input_error(path_ + ": " + what +
					  "; the file is damaged or of another model: fetch it "
					  "again with 'python3 fetch_model.py DIR'");
}

void safetensors::parse_header() {
	const std::uint64_t file_size = file_.size();
	if (file_size < 8) {
		fail("has " + std::to_string(file_size) +
			 " bytes, and a safetensors file begins with 8 "
			 "bytes of header length");
	}
	std::uint64_t header_size = 0;
	for (int i = 7; i >= 0; --i) {
		header_size = header_size << 8 | std::to_integer<std::uint64_t>(file_.data()[i]); // little-endian
	}
	if (header_size > header_limit || header_size > file_size - 8) {
		fail("says its header has " + std::to_string(header_size) + " bytes, and the file has " +
			 std::to_string(file_size));
	}
	data_begin_ = 8 + header_size;
	const std::uint64_t data_size = file_size - data_begin_;

	const std::string_view text(reinterpret_cast<const char *>(file_.data()) + 8, header_size);
	try {
		header_parser json(text);
		json.object([&](const std::string &name) {
			if (name == "__metadata__") {
				json.object([&](const std::string &) { (void)json.string(); });
				return;
			}
			tensor t;
			std::vector<std::uint64_t> offsets;
			json.object([&](const std::string &key) {
				if (key == "dtype") {
					t.dtype = json.string();
				} else if (key == "shape") {
					t.shape = json.numbers();
				} else if (key == "data_offsets") {
					offsets = json.numbers();
				} else {
					throw input_error("tensor '" + name + "' has the unknown key '" + key + "'");
				}
			});
			if (size_of(t.dtype) == 0) {
				throw input_error("tensor '" + name + "' is of unknown type '" + t.dtype + "'");
			}
			if (offsets.size() != 2 || offsets[0] > offsets[1] || offsets[1] > data_size) {
				throw input_error("tensor '" + name + "' has data_offsets " + to_string(offsets) +
								  ", and the file has " + std::to_string(data_size) + " bytes of data");
			}
			t.begin = offsets[0];
			t.end = offsets[1];
			if (bytes_of(t) != t.end - t.begin) {
				throw input_error("tensor '" + name + "' has shape " + to_string(t.shape) + " and data_offsets " +
								  to_string(offsets) + ", which do not agree");
			}
			if (!tensors_.emplace(name, std::move(t)).second) {
				throw input_error("tensor '" + name + "' is there twice");
			}
		});
		json.end();
	} catch (const input_error &e) {
		fail(e.what());
	}
}

std::uint64_t safetensors::position(std::string_view name, const std::vector<std::uint64_t> &shape) const {
	const auto found = tensors_.find(name);
	if (found == tensors_.end()) {
		fail("has no tensor '" + std::string(name) + "'");
	}
	const tensor &t = found->second;
	if (t.dtype != "F32" || t.shape != shape) {
		fail("tensor '" + std::string(name) + "' is " + t.dtype + " " + to_string(t.shape) +
			 ", and this engine takes F32 " + to_string(shape));
	}
	return data_begin_ + t.begin;
}

} // namespace minilm

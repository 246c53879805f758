// SPDX-License-Identifier: Apache-2.0
/// Text to token ids; the tables are in unicode_table.hpp.
#include "tokenizer.hpp"

#include <algorithm>
#include <array>
#include <fstream>
#include <iterator>

#include "input_error.hpp"
#include "unicode_table.hpp"

namespace minilm {
namespace {

constexpr char32_t replacement = 0xFFFD;  ///< in the table of what is dropped
constexpr std::size_t longest_word = 100; ///< a longer one is unknown, as in the original

/// @return the code point at `at`, which moves behind it; `replacement` for what is not UTF-8
char32_t decode(std::string_view text, std::size_t &at) {
	const auto lead = static_cast<unsigned char>(text[at++]);
	if (lead < 0x80) {
		return lead;
	}
	const int more = lead >= 0xF0 && lead < 0xF5   ? 3
					 : lead >= 0xE0 && lead < 0xF0 ? 2
					 : lead >= 0xC2 && lead < 0xE0 ? 1
												   : 0;
	if (more == 0) {
		return replacement;
	}
	char32_t code = lead & (0x3Fu >> more);
	for (int i = 0; i < more; ++i) {
		if (at == text.size() || (static_cast<unsigned char>(text[at]) & 0xC0) != 0x80) {
			return replacement;
		}
		code = code << 6 | (static_cast<unsigned char>(text[at++]) & 0x3Fu);
	}
	constexpr std::array<char32_t, 4> smallest = {0, 0x80, 0x800, 0x10000};
	const bool surrogate = code >= 0xD800 && code < 0xE000;
	return code < smallest[static_cast<std::size_t>(more)] || code > 0x10FFFF || surrogate ? replacement : code;
}

void append_utf8(char32_t code, std::string &out) {
	const auto put = [&](char32_t byte) { out += static_cast<char>(byte); };
	if (code < 0x80) {
		put(code);
	} else if (code < 0x800) {
		put(0xC0 | code >> 6);
		put(0x80 | (code & 0x3F));
	} else if (code < 0x10000) {
		put(0xE0 | code >> 12);
		put(0x80 | (code >> 6 & 0x3F));
		put(0x80 | (code & 0x3F));
	} else {
		put(0xF0 | code >> 18);
		put(0x80 | (code >> 12 & 0x3F));
		put(0x80 | (code >> 6 & 0x3F));
		put(0x80 | (code & 0x3F));
	}
}

/// @return the last entry of a table sorted by `key` whose key is not above `code`, or nullptr
template <class Table, class Key>
auto last_not_above(const Table &table, char32_t code, Key key) {
	const auto above = std::upper_bound(std::begin(table), std::end(table), code,
		[&](char32_t value, const auto &entry) { return value < entry.*key; });
	return above == std::begin(table) ? nullptr : std::prev(above);
}

template <class Table>
bool contains(const Table &table, char32_t code) {
	const auto *range = last_not_above(table, code, &unicode::code_range::first);
	return range != nullptr && code <= range->last;
}

/// The ideographs that BERT makes a word each (not Hangul, kana or newer extensions).
bool is_ideograph(char32_t c) {
	return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
		   (c >= 0x2A700 && c <= 0x2B81F) || (c >= 0x2B820 && c <= 0x2CEAF) || (c >= 0xF900 && c <= 0xFAFF) ||
		   (c >= 0x2F800 && c <= 0x2FA1F);
}

/// Call put(code point) for what `c` becomes when decomposed, stripped of accents and lowered.
template <class Put>
void fold(char32_t c, Put &&put) {
	if (c < 0x80) {
		return put(c >= 'A' && c <= 'Z' ? c + 32 : c);
	}
	if (c >= 0xAC00 && c < 0xD7A4) { // a Hangul syllable is computed from its letters
		const char32_t syllable = c - 0xAC00;
		put(0x1100 + syllable / 588);
		put(0x1161 + syllable % 588 / 28);
		if (syllable % 28 != 0) {
			put(0x11A7 + syllable % 28);
		}
		return;
	}
	const auto in = [&](char32_t first, const auto &table) {
		return c >= first && c - first < std::size(table) - 1; // -1: the literal's ending 0
	};
	if (in(unicode::compatibility_first, unicode::compatibility)) {
		return put(unicode::compatibility[c - unicode::compatibility_first]);
	}
	if (in(unicode::compatibility_supplement_first, unicode::compatibility_supplement)) {
		return put(unicode::compatibility_supplement[c - unicode::compatibility_supplement_first]);
	}
	if (const auto *run = last_not_above(unicode::folds, c, &unicode::fold_run::first)) {
		const char32_t distance = c - run->first;
		if (distance % run->step == 0 && distance / run->step < run->count) {
			return put(run->target + distance / run->step * run->target_step);
		}
	}
	if (const auto *entry = last_not_above(unicode::folds_several, c, &unicode::fold_several::code);
		entry != nullptr && entry->code == c) {
		for (const char32_t *target = entry->targets; *target != 0; ++target) {
			put(*target);
		}
		return;
	}
	put(c);
}

} // namespace

tokenizer::tokenizer(const std::string &path) {
	std::ifstream file(path, std::ios::binary);
	if (!file) {
		throw input_error(path + ": cannot open it; fetch the model with 'python3 fetch_model.py "
								 "DIR' and give --model DIR");
	}
	ids_.reserve(vocabulary_size);
	std::size_t lines = 0;
	for (std::string line; lines <= vocabulary_size && std::getline(file, line); ++lines) {
		if (!line.empty() && line.back() == '\r') {
			line.pop_back();
		}
		ids_.emplace(std::move(line), static_cast<token_id>(lines));
	}
	const auto special = [&](const char *name) {
		const auto found = ids_.find(name);
		if (found == ids_.end() || lines != vocabulary_size) {
			throw input_error(path + ": is not the vocabulary of this model, which has " +
							  std::to_string(vocabulary_size) +
							  " lines with [CLS], [SEP] and [UNK] among them; fetch it again with "
							  "'python3 fetch_model.py DIR'");
		}
		return found->second;
	};
	begin_ = special("[CLS]");
	end_ = special("[SEP]");
	unknown_ = special("[UNK]");
}

std::vector<token_id> tokenizer::encode(std::string_view text) const {
	std::vector<token_id> out = {begin_};
	std::u32string word;
	const auto end_word = [&] {
		append_pieces(word, out);
		word.clear();
	};
	for (std::size_t at = 0; at < text.size() && out.size() < max_tokens;) {
		const char32_t raw = decode(text, at);
		if (contains(unicode::dropped, raw)) {
			continue;
		}
		const bool ideograph = is_ideograph(raw);
		fold(raw, [&](char32_t c) {
			const bool alone = ideograph || contains(unicode::punctuation, c);
			const bool space = contains(unicode::whitespace, c);
			if (alone || space) {
				end_word();
			}
			if (!space && word.size() <= longest_word) {
				word += c;
			}
			if (alone) {
				end_word();
			}
		});
	}
	end_word();
	out.resize(std::min(out.size(), max_tokens - 1));
	out.push_back(end_);
	return out;
}

void tokenizer::append_pieces(std::u32string_view word, std::vector<token_id> &out) const {
	if (word.empty()) {
		return;
	}
	if (word.size() > longest_word) {
		out.push_back(unknown_);
		return;
	}
	const std::size_t before = out.size();
	std::string piece;
	for (std::size_t begin = 0; begin < word.size();) {
		std::size_t end = word.size();
		for (; end > begin; --end) { // the longest piece that the vocabulary has
			piece = begin == 0 ? "" : "##";
			for (const char32_t c : word.substr(begin, end - begin)) {
				append_utf8(c, piece);
			}
			if (const auto found = ids_.find(piece); found != ids_.end()) {
				out.push_back(found->second);
				break;
			}
		}
		if (end == begin) { // a word that does not split into known pieces is unknown as a whole
			out.resize(before);
			out.push_back(unknown_);
			return;
		}
		begin = end;
	}
}

} // namespace minilm

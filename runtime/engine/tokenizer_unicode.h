// Classes of characters as the reference library sees them; internal to
// runtime/engine/tokenizer*.cpp.
//
// Its tables of categories are those of Unicode 8 and 9: a mark or punctuation that is newer is a
// character like any other to it, and has to be one here, or the ids differ.
#pragma once

#include <string>

namespace shunt::tokenizer {

/// Property White_Space.
bool is_white_space(char32_t code);
/// Category P, or ASCII that is neither letter, digit, space nor control.
bool is_punctuation(char32_t code);
/// Categories Cc, Cf, Co.
bool is_other(char32_t code);
/// Category Mn.
bool is_nonspacing_mark(char32_t code);
/// Category M, by the table of the normalizer StripAccents.
bool is_combining_mark(char32_t code);

/// Appends the lower case of `code`, which can be two characters.
void append_lowercase(char32_t code, std::string& text);

}  // namespace shunt::tokenizer

# SPDX-License-Identifier: Apache-2.0
"""Makes the man pages in docs/man of the comments in libgmem.h.

  tools/man.py           write them
  tools/man.py --check   say which are out of date, and fail if any is
"""

import pathlib
import re
import sys

import header

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "man"
# Names that the C library may document in any of its sections.
_REFERENCE = re.compile(r"\b([a-z_]\w+)\((\d)\)|\b(gmem\w+)\(\)")


def _escaped(text):
    return text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\`")


def _inline(text):
    """Markdown and references inside a paragraph."""
    out = []
    for part in re.split(r"(\*\*.+?\*\*|`.+?`|\b[a-z_]\w+\(\d\)|\bgmem\w+\(\))", text):
        if part.startswith("**") and len(part) > 4:
            out.append(f"\\fB{_escaped(part[2:-2])}\\fP")
        elif part.startswith("`") and len(part) > 2:
            out.append(f"\\fB{_escaped(part[1:-1])}\\fP")
        elif found := _REFERENCE.fullmatch(part):
            out.append(f"\\fB{_escaped(found[1] or found[3])}\\fP({found[2] or 3})")
        else:
            out.append(_escaped(part))
    text = "".join(out)
    return re.sub(r"^([.'])", r"\\&\1", text)


def _paragraph(text):
    """A paragraph or a table; a row of a table becomes an item."""
    if not re.search(r"^\|", text, re.MULTILINE):
        return [".PP", _inline(text)]
    lines = []
    lead, *rows = text.split("\n") if not text.startswith("|") else ["", *text.split("\n")]
    if lead:
        lines += [".PP", _inline(lead)]
    for row in rows[2:]:
        first, *others = [cell.strip() for cell in row.strip("|").split("|")]
        lines += _item(first, "; ".join(others))
    return lines


def _item(term, text):
    return [".TP", f".B {_escaped(term)}", _inline(text)]


def _declaration(type_):
    return [".PP", ".in +4n", ".EX", *(_escaped(line).replace("\t", "    ") for line in type_.declaration.splitlines()),
            ".EE", ".in"]


def _type(type_):
    lines = _declaration(type_)
    for text in filter(None, [type_.comment.brief, *type_.comment.paragraphs]):
        lines += _paragraph(text)
    for name, text in type_.members:
        if text and text != "private":
            lines += _item(name, text)
    return lines


def _joined(lines):
    """The page, without a paragraph right after a heading, which begins one itself."""
    kept = [line for before, line in zip(["", *lines], lines)
            if not (line == ".PP" and before.startswith((".SH", ".SS")))]
    return "\n".join(kept) + "\n"


def _title(name, section, version):
    return [".\\\" Made by tools/man.py of the comments in libgmem.h; edit those.",
            f".TH {name} {section} \"\" \"libgmem {version}\" \"libgmem manual\""]


def _see_also(names, own):
    names = [f"{name[:-2]}(3)" if name.endswith("()") else name for name in names]
    names = [name for name in dict.fromkeys(names) if name != own]
    lines = [".SH SEE ALSO"]
    for number, name in enumerate(names):
        page, section = re.fullmatch(r"(\w+)\((\d)\)", name).groups()
        lines.append(f".BR {page} ({section}){',' if number + 1 < len(names) else ''}")
    return lines


def _function(function, types, version):
    comment = function.comment
    lines = _title(function.name, 3, version)
    lines += [".SH NAME", f"{function.name} \\- {_plain(comment.brief)}", ".SH LIBRARY",
              "GMEM memory library (\\fIlibgmem\\fP, \\fI\\-lgmem\\fP; \\fIlibgmem_api\\fP, \\fI\\-lgmem_api\\fP)",
              ".SH SYNOPSIS", ".nf", ".B #include <libgmem.h>", ".PP", f".B {_escaped(function.prototype)}", ".fi",
              ".SH DESCRIPTION", _inline(comment.brief)]
    for text in comment.paragraphs:
        lines += _paragraph(text)
    if comment.params:
        lines += [".SS Parameters"]
        for name, text in comment.params.items():
            lines += _item(name, text)
    used = [type_ for type_ in types if type_.name and re.search(rf"\b{type_.name}\b", function.prototype)]
    for type_ in used:
        if type_.members:
            lines += [f".SS The structure {type_.name}", *_type(type_)]
    if comment.returns or comment.retvals:
        lines += [".SH RETURN VALUE"]
        success = [text for name, text in comment.retvals if name == "0"]
        if comment.returns:
            lines += [_inline(comment.returns[0].upper() + comment.returns[1:] + ".")]
        else:
            lines += [f"0: {_inline(success[0])}. On failure, a value listed under ERRORS."]
    errors = [(name, text) for name, text in comment.retvals if name != "0"]
    if errors:
        lines += [".SH ERRORS"]
        if any(name.startswith("-") for name, _ in errors):
            lines += ["\\fBgmemLastError\\fP(3) returns the failure in words.", "\\fBlibgmem\\fP(7) describes errors that are "
                      "passed on from the kernel."]
        for name, text in errors:
            lines += _item(name, text)
    for title, text in comment.sections.items():
        lines += [f".SH {title.upper()}", _inline(text)]
    return _joined(lines + _see_also([*comment.see, "libgmem(7)"], f"{function.name}(3)"))


def _plain(text):
    """A brief without its full stop, as the whatis database has it."""
    text = _inline(text.rstrip("."))
    return text[0].lower() + text[1:]


def _overview(overview, functions, types, version):
    lines = _title("libgmem", 7, version)
    lines += [".SH NAME", "libgmem \\- memory shared by a CPU and its accelerators", ".SH SYNOPSIS", ".nf",
              ".B #include <libgmem.h>", ".fi", ".SH DESCRIPTION"]
    for text in overview.paragraphs:
        lines += _paragraph(text)
    for title, text in overview.sections.items():
        lines += [f".SH {title.upper()}", _inline(text)]
    lines += [".SH FUNCTIONS"]
    for function in functions:
        lines += [".TP", f".BR {function.name} (3)", _inline(function.comment.brief)]
    lines += [".SH TYPES AND CONSTANTS"]
    for type_ in types:
        lines += _type(type_)
    lines += [".SH ENVIRONMENT",
              "\\fBGMEM_DEVICE\\fP selects the device, \\fBGMEM_LOG\\fP turns on messages. \\fIdocs/settings.md\\fP lists every "
              "variable."]
    see = [f"{name}(3)" for name in ("gmemPrefetch", "gmemFreeEager", "gmemGetNumaId", "gmem_malloc", "malloc")]
    return _joined(lines + _see_also([*see, "madvise(2)", "numa(7)"], "libgmem(7)"))


def pages():
    """Each page by its path below docs/man."""
    overview, functions, types = header.parse()
    source = header.HEADER.read_text(encoding="utf-8")
    version = ".".join(re.findall(r"#define LIBGMEM_VERSION_\w+ (\d+)", source))
    made = {f"man3/{function.name}.3": _function(function, types, version) for function in functions}
    made["man7/libgmem.7"] = _overview(overview, functions, types, version)
    return made


def main():
    made = pages()
    if sys.argv[1:] == ["--check"]:
        there = {str(path.relative_to(FOLDER)): path.read_text(encoding="utf-8") for path in FOLDER.glob("man?/*")}
        stale = sorted(name for name in made.keys() | there.keys() if made.get(name) != there.get(name))
        if stale:
            sys.exit(f"docs/man is out of date: {', '.join(stale)}; run tools/man.py")
        return
    for path in FOLDER.glob("man?/*"):
        if str(path.relative_to(FOLDER)) not in made:
            path.unlink()
    for name, text in made.items():
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    main()

# SPDX-License-Identifier: Apache-2.0
"""Reads libgmem.h: every declaration with its documentation comment, taken apart."""

import dataclasses
import pathlib
import re

HEADER = pathlib.Path(__file__).resolve().parent.parent / "include" / "libgmem.h"

_FUNCTION = re.compile(r"^(?:LIBGMEM_NODISCARD )?([\w ]+?[ *]+)(gmem\w+)\((.*?)\)", re.DOTALL)


@dataclasses.dataclass
class Comment:
    """A documentation comment by its commands."""
    brief: str = ""
    paragraphs: list = dataclasses.field(default_factory=list)
    params: dict = dataclasses.field(default_factory=dict)
    returns: str = ""
    # (name, text), in order; the name is an errno with its sign, or 0.
    retvals: list = dataclasses.field(default_factory=list)
    # Title -> text.
    sections: dict = dataclasses.field(default_factory=dict)
    see: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Function:
    name: str
    prototype: str
    comment: Comment

    def errnos(self):
        """The errnos that the function documents, without a sign."""
        return [name.lstrip("-") for name, _ in self.comment.retvals if name != "0"]


@dataclasses.dataclass
class Type:
    """A structure, an enumeration or a function type."""
    name: str
    kind: str
    # The declaration without its comments.
    declaration: str
    comment: Comment
    # (name, text) of each field or constant.
    members: list


def _text(raw):
    """The lines of a comment without their stars."""
    return [re.sub(r"^\s*\*? ?", "", line).rstrip() for line in raw.strip().splitlines()]


def _comment(raw):
    comment = Comment()
    blocks = []
    for line in _text(raw):
        command = re.match(r"@(brief|param|return|retval|par|see|file)\b ?(.*)", line)
        if command:
            blocks.append([command[1], command[2]])
        elif not line:
            blocks.append(["text", ""])
        elif blocks and blocks[-1][0] == "par":
            blocks.append(["section:" + blocks[-1][1], line])
        elif blocks and line.startswith("|"):
            blocks[-1][1] += "\n" + line
        elif blocks:
            blocks[-1][1] += (" " if blocks[-1][1] else "") + line.strip()
        else:
            blocks.append(["text", line])
    for kind, text in blocks:
        text = text.strip()
        if kind == "brief":
            comment.brief = text
        elif kind == "param":
            name, _, rest = text.partition(" ")
            comment.params[name] = rest.strip()
        elif kind == "return":
            comment.returns = text
        elif kind == "retval":
            name, _, rest = text.partition(" ")
            comment.retvals.append((name, rest.strip()))
        elif kind == "see":
            comment.see += [name.strip() for name in text.split(",")]
        elif kind.startswith("section:"):
            comment.sections[kind[len("section:"):]] = text
        elif kind == "text" and text:
            comment.paragraphs.append(text)
    return comment


def _without_comments(code):
    code = re.sub(r"/\*.*?\*/", "", code, flags=re.DOTALL)
    return "\n".join(line.rstrip() for line in code.splitlines() if line.strip())


def _members(body):
    """Fields or constants with the comments before or behind them."""
    members = []
    before = ""
    for piece in re.split(r"(/\*\*.*?\*/)", body, flags=re.DOTALL):
        if piece.startswith("/**<"):
            members[-1] = (members[-1][0], " ".join(_text(piece[4:-2])))
        elif piece.startswith("/**"):
            before = " ".join(_text(piece[3:-2]))
        else:
            # Commas between parentheses belong to a function's arguments.
            for code in re.split(r"[;,](?![^(]*\))", piece):
                function = re.search(r"\(\*(\w+)\)", code)
                field = re.search(r"(\w+)(?:\[\d+\])?(?:\s*=\s*[^=]*)?\s*$", code)
                if function or field:
                    members.append(((function or field)[1], before))
                    before = ""
    return members


def parse(path=HEADER):
    """The overview, the functions and the types of the header."""
    source = path.read_text(encoding="utf-8")
    source = source.replace("/* NOLINT(performance-enum-size): C has no smaller ones */", "")
    overview, functions, types = None, [], []
    for found in re.finditer(r"^/\*\*(?!<)(.*?)\*/\n", source, re.DOTALL | re.MULTILINE):
        rest = source[found.end():]
        comment = _comment(found[1])
        if "@file" in found[1]:
            overview = comment
            continue
        if kind := re.match(r"(typedef struct|enum) *\{", rest):
            body, name = re.match(r"[^{]*\{(.*?)\n\}\s*(\w*);", rest, re.DOTALL).groups()
            declaration = _without_comments(rest[:rest.index("\n}") + 2] + (f" {name};" if name else ";"))
            types.append(Type(name, kind[1], declaration, comment, _members(body)))
        elif rest.startswith("typedef"):
            declaration = rest[:rest.index(";") + 1]
            name = re.search(r"\(\*(\w+)\)|(\w+);$", declaration)
            types.append(Type(name[1] or name[2], "typedef", declaration, comment, []))
        elif function := _FUNCTION.match(rest):
            arguments = " ".join(function[3].split())
            functions.append(Function(function[2], f"{function[1]}{function[2]}({arguments});", comment))
        elif not rest.startswith("#define") and "cond" not in found[1]:
            raise ValueError(f"{path}: a comment that documents nothing: {comment.brief or comment.paragraphs[:1]}")
    return overview, functions, types

"""The edits: for every operator the places of a source where it applies, and what it puts there."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    file: str  # relative to csrc/cuda
    line: int
    operator: str
    start: int  # in the file's text
    end: int
    after: str
    source_line: str
    occurrence: int  # among this operator's edits of this line

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What identifies it while other lines come and go."""
        return self.file, self.operator, self.source_line, self.occurrence

    def apply(self, text: str) -> str:
        return text[: self.start] + self.after + text[self.end :]

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.operator}"


# A call without nested statements: balanced to a depth that kernels do not exceed.
_ARGUMENTS = r"\((?:[^()]|\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\))*\)"


def _removed(match: re.Match) -> str:
    return ";"


def _swapped(pairs: list[tuple[str, str]]) -> Callable[[re.Match], str]:
    table = {**dict(pairs), **{b: a for a, b in pairs}}
    return lambda match: match[1] + table[match[2]]


_COMPARISONS = {" < ": " <= ", " <= ": " < ", " > ": " >= ", " >= ": " > ", " == ": " != ", " != ": " == "}
_AXES = [("_h", "_w"), ("_m", "_n"), ("_top", "_left"), (".H", ".W"), (".P", ".Q"), (".R", ".S"), (".y", ".x")]
_ENDINGS = "|".join(re.escape(name) for pair in _AXES for name in pair)


def _first_argument(match: re.Match) -> str:
    return "(" + _split_arguments(match[2])[0] + ")"


def _split_arguments(text: str) -> list[str]:
    """The arguments in a parenthesised list."""
    parts, depth, current = [], 0, ""
    for character in text[1:-1]:
        depth += character in "([{"
        depth -= character in ")]}"
        if character == "," and depth == 0:
            parts.append(current)
            current = ""
        else:
            current += character
    return [*parts, current]


def _next_element(match: re.Match) -> str:
    """The element after; the extent of a declared array stays."""
    line = match.string[match.string.rfind("\n", 0, match.start()) + 1 : match.end()]
    constant = re.fullmatch(r"(?:[\s+*/()\d]|\w+::|k[A-Z]\w*)*", match[1])
    declared = re.match(r"\s*(?:const |__shared__ |__align__\(\d+\) )*[\w:]+(?:<[^>]*>)? [^=(]*\[", line)
    return match[0] if constant and (declared or "(&" in line) else f"[{match[1]} + 1]"


def _always_valid(match: re.Match) -> str:
    arguments = _split_arguments(match[2])
    return f"{match[1]}({','.join(arguments[:-1])}, true)"


# Operator -> (pattern, replacement). Patterns rely on clang-format's spacing: a comparison has spaces, a template's
# bracket has none.
OPERATORS: dict[str, tuple[str, Callable[[re.Match], str]]] = {
    "drop_barrier": (rf"\b(?:__syncthreads|__syncwarp|named_barrier_sync(?:<[^;]*?>)?){_ARGUMENTS};", _removed),
    "wait_for_less": (
        r"\b((?:cp_async_wait|wgmma_wait|bulk_wait\w*|tma_store_wait\w*)<)([^;]*?)(>\(\))",
        lambda match: f"{match[1]}({match[2]}) + 1{match[3]}",
    ),
    "drop_wait": (rf"\b(?:cp_async_wait|wgmma_wait)<[^;]*?>\(\);|\bmbarrier_wait\w*{_ARGUMENTS};", _removed),
    "drop_fence": (rf"\b(?:__threadfence\w*|\w*fence\w*){_ARGUMENTS};", _removed),
    "drop_commit": (rf"\b\w+_commit\w*{_ARGUMENTS};", _removed),
    "drop_arrive": (rf"\bmbarrier_arrive\w*{_ARGUMENTS};", _removed),
    "flip_phase": (r"(\b(?:stage|phase|parity|buffer)\w*) \^= 1", lambda match: f"{match[1]} ^= 0"),
    "flip_stage": (r"(\b(?:stage|phase|parity|buffer)\w*) \^ 1\b", lambda match: match[1]),
    "shift_index": (r"(?<=[\w\])])\[([^\[\]=&]+)\](?!\s*\()", _next_element),
    "change_comparison": (r" (?:<|<=|>|>=|==|!=) ", lambda match: _COMPARISONS[match[0]]),
    "drop_left_predicate": (r"([\w.()\[\] +*%/<>=!-]+?) && ", lambda match: _leading(match[1])),
    "drop_condition": (rf"\b(if )({_ARGUMENTS})", lambda match: f"{match[1]}(true)"),
    "drop_bound": (rf"(?<![\w:.])(min|max)({_ARGUMENTS})", _first_argument),
    "drop_zero_fill": (
        r"\?([^?:;]+):\s*(?:T\{\}|0\.0f|0|Acc\(0\)|T\(0\))(?=[;,)])",
        lambda match: f"? {match[1].strip()} : {match[1].strip()}",
    ),
    "always_copy": (rf"\b(cp_async_(?:4|16))({_ARGUMENTS})", _always_valid),
    "swap_axis": (rf"(\b[a-z]\w*?)({_ENDINGS})\b(?!\()", _swapped(_AXES)),
    "plus_one_less": (r" ([+-]) 1\b(?!\.)", lambda match: f" {match[1]} 0"),
    "swap_sign": (r"(?<=[\w)\]]) ([+-]) (?=[a-z(])", lambda match: " - " if match[1] == "+" else " + "),
}  # fmt: skip


def _leading(predicate: str) -> str:
    """What stood before the predicate that goes, such as an opening bracket."""
    depth = 0
    for i in range(len(predicate) - 1, -1, -1):
        depth += predicate[i] == ")"
        depth -= predicate[i] == "("
        if depth < 0:
            return predicate[: i + 1]
    return predicate[: len(predicate) - len(predicate.lstrip())]


_BLOCK = r"^(?:template|struct|class|__|inline|void|[a-z]\w*(?: |<)|[A-Z]\w*(?: |<)).*?^\}"


def _device_text(text: str) -> str:
    """The text with everything blanked that is no device code: comments, strings, directives, host functions."""
    blank = lambda match: re.sub(r"[^\n]", " ", match[0])  # noqa: E731
    text = re.sub(r"//[^\n]*|\"(?:\\.|[^\"\\\n])*\"", blank, text)
    text = re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", blank, text, flags=re.MULTILINE)
    text = re.sub(r"\bstatic_assert\((?:[^;])*;", blank, text)
    # Blocks at namespace scope start in the first column and end with a brace there: clang-format sees to it.
    return re.sub(_BLOCK, _host_blanked, text, flags=re.MULTILINE | re.DOTALL)


def _host_blanked(match: re.Match) -> str:
    device = "__global__" in match[0] or "__device__" in match[0] or "FC_HOST_DEVICE" in match[0]
    return match[0] if device else re.sub(r"[^\n]", " ", match[0])


def mutants(file: str, text: str) -> Iterator[Mutant]:
    """Every edit of one source."""
    device = _device_text(text)
    lines = text.splitlines()
    for operator, (pattern, replacement) in OPERATORS.items():
        seen: dict[int, int] = {}
        for match in re.finditer(pattern, device):
            after = replacement(match)
            if after == match[0]:
                continue
            line = text.count("\n", 0, match.start()) + 1
            occurrence = seen[line] = seen.get(line, -1) + 1
            yield Mutant(
                file, line, operator, match.start(), match.end(), after, lines[line - 1].strip(), occurrence
            )  # fmt: skip

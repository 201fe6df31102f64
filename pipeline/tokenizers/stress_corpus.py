"""The stress corpus: short texts on which tokenizers are known to differ."""

from __future__ import annotations

from collections.abc import Sequence

COMMON = ("scripts", "emoji", "digits", "white space", "code", "user")
"""The kinds that people type. A difference in any other kind is only a warning, as it is rare."""

_SCRIPTS = (
    "The quick brown fox jumps over the lazy dog, doesn't it? I'll say so; they've said so!",
    "Größenwahn, naïveté, façade, crème brûlée, smörgåsbord, Straße, Œuvre, ½ ¾ © ™ § ¶ – — … „so“ «ainsi»",
    "Żółta łódź; příliš žluťoučký kůň; șapte țări; İstanbul ıslık; ħobż; þorn ðe ærði",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. Їжак і ґанок. Љубав, њива, џеп.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. Հայերեն լեզու։ ქართული ენა",
    "העולם שלום וברכה לכולם. السلام عليكم ورحمة الله وبركاته، كيف حالك؟ فارسی زبان گچ پژ. اردو",
    "नमस्ते दुनिया, क्षत्रिय ज्ञान श्री। বাংলা ভাষা। தமிழ் மொழி ஸ்ரீ. తెలుగు. ಕನ್ನಡ. മലയാളം. ગુજરાતી. ਪੰਜਾਬੀ. සිංහල",
    "สวัสดีชาวโลก ภาษาไทย. ພາສາລາວ. ភាសាខ្មែរ. မြန်မာဘာသာ. བོད་སྐད། አማርኛ ትግርኛ. ᏣᎳᎩ. ᐃᓄᒃᑎᑐᑦ. ⵜⴰⵎⴰⵣⵉⵖⵜ",
    "你好,世界!今天去哪儿吃饭?繁體中文。日本語のテキスト、カタカナとひらがな。한국어 문장입니다.",
    "Tiếng Việt có dấu: đường phố, nghiêng ngả. Gàidhlig. Ōkami Māori. Esperanto: ŝanĝo ĉiuĵaŭde",
    "WORDS IN CAPITALS, camelCaseWords, snake_case_words, kebab-case-words, MiXeD, iPhone, O'Neill",
)
_EMOJI = (
    "😀😂🤣❤️✨🔥👍🏽👩‍💻👨‍👩‍👧‍👦🏳️‍🌈🏴‍☠️🇩🇪🇯🇵🧑🏿‍🚀⚓🦜",
    "Ahoy ⚓, matey 🦜! 1️⃣2️⃣3️⃣ ☎️ ☎ ♀️ ➡️ ✅✅ ☠",
    "→ ← ↔ ∀x∈ℝ: ⌈x⌉ ≥ x ∧ ∑ᵢ aᵢ² ≠ ∞ ± √2 ≈ 1.414 ⟨ψ|φ⟩ ℏ Å µ Ω 𝔸𝔹ℂ 𝒳 𝟘𝟙",
)
_DIGITS = (
    "0 1 12 123 1234 12345 123456 1234567890 3.14159 -273.15 1,000,000.00 1e-10 0x1F 0b1010 50% $99.99 €5",
    "2026-11-22T07:04:26Z 12:30pm 192.168.0.1 +49 (0)30 123456 #42 No.7 1st 2nd 3rd v1.2.3-rc4 1/2 10^6",
    "٠١٢٣٤٥٦٧٨٩ ०१२३४५६७८९ 一二三四五 ⅣⅫ ²³ ₁₂",
)
_SPACES = (
    " ",
    "  ",
    "   three before",
    "three after   ",
    "a  b   c    d        e",
    "tab\there\t\ttwice\t end",
    "\n",
    "\n\n",
    "line\nline\n\nparagraph\n\n\nthree\n\n\n\nfour\n",
    "ends\r\nwith\r\nreturns\r\n",
    " \n  \n   indented\n\tby tab\n\t\tby two\n",
    "trailing \n spaces \n",
    "1\n2\n 3\n  4",
)
_CODE = (
    'def f(x: int) -> str:\n    """Doc."""\n    return f\'{x!r:>10}\' if x != 0 else None  # why\n',
    'for (int i = 0; i < n; ++i) {\n\tsum += a[i] * b[i];\n}\n#include <stdio.h>\nprintf("%d\\n", x);',
    '{"key": [1, 2.5, null, true], "nested": {"a\\u00e9": "\\n"}}',
    "SELECT * FROM t WHERE a >= 'x' AND b IN (1,2);-- end",
    '<div class="a">&amp; <br/></div> <!-- no --> $x = \\frac{a}{b}$ https://example.org/a?b=c&d=%20#e',
    "```python\nprint('hi')\n```\n\n* item\n* **bold** _it_ ~~no~~\n\n| a | b |\n|---|---|\n",
    "!!! ??? ... --- === *** /// ::: ;;; ''' \"\"\" ((( ))) [[[ ]]] {{{ }}} <<< >>> @@@ ### $$$ %%% ^^^ &&&",
)
_MARKS = (
    "e\u0301 a\u0308 o\u0302\u0323 n\u0303 c\u0327 A\u030a",
    "Z\u0351\u036b\u0343a\u0321\u034el\u0328g\u0322o\u0335",
    "ﬁne ﬂow ﬃ Ａ１ ｶﾀｶﾅ ㍿ ﷺ \u1112\u1161\u11ab",
    "\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd \u0628\u0650\u0633\u0652\u0645\u0650",
)
_CONTROL = (
    "no\u00a0break thin\u2009space em\u2003space ideographic\u3000space zero\u200bwidth\ufeffmark",
    "soft\u00adhyphen left\u200eto\u200fright \u202aembed\u202c line\u2028sep par\u2029sep next\u0085line",
    "bell\x07 back\x08 escape\x1b[0m form\x0cfeed vertical\x0btab delete\x7f unit\x1f",
    "\ufffd \ue000 \U000e0041 \U0010fffd \ud7ff",
)


def stress_corpus() -> dict[str, tuple[str, ...]]:
    """Return the texts by kind, without any tokenizer's special tokens."""
    return {
        "scripts": _SCRIPTS,
        "emoji": _EMOJI,
        "digits": _DIGITS,
        "white space": _SPACES,
        "code": _CODE,
        "combining marks": _MARKS,
        "control characters": _CONTROL,
    }


def token_texts(tokens: Sequence[str], embedded: int = 24) -> tuple[str, ...]:
    """Return each special or added token as a text, and the first `embedded` ones between words."""
    return (*tokens, *(f"before{token}after" for token in tokens[:embedded]))

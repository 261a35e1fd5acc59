"""Data Docs: Great Expectations' page of results -> the same page, opened without a network and with no link that leads nowhere."""

import re

# What the page loads from elsewhere: it would be unstyled offline, and tell others that it was opened.
FOREIGN = re.compile(
    r"<script[^>]*\bsrc=\"(?:https?:)?//[^>]*>\s*</script>|<link[^>]*\bhref=\"(?:(?:https?:)?//|\.\./)[^>]*>|<img[^>]*\bsrc=\"(?:https?:)?//[^>]*>",
    re.IGNORECASE,
)
DEAD_LINK = re.compile(r"<a\b[^>]*\bhref=\"(?:\.\./|https?://)[^>]*>(.*?)</a>", re.IGNORECASE | re.DOTALL)
# What says nothing here: advice to subscribe, and a time that would make equal results unequal pages.
IDLE = re.compile(
    r"<footer>.*?</footer>|<ol class=\"ge-breadcrumbs.*?</ol>|url\('https?://[^']*'\)[^;]*;|<tr[^>]*>(?:(?!</tr>).)*1970-01-01(?:(?!</tr>).)*</tr>",
    re.DOTALL,
)
STYLE = """<style>
 body { font: 15px/1.5 system-ui, "Noto Sans CJK SC", "Microsoft YaHei", sans-serif; color: #222;
        margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
 table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem; }
 th, td { border: 1px solid #d5d5d5; padding: .35rem .6rem; text-align: left; vertical-align: top; overflow-wrap: anywhere; }
 th { background: #f3f3f3; }
 .text-success, .fa-check-circle { color: #177a2b; } .fa-check-circle::before { content: "✓"; }
 .text-danger, .fa-times { color: #b3261e; } .fa-times::before { content: "✗"; }
 .badge { background: #eee; border-radius: .3rem; padding: 0 .35rem; }
 .nav, .navbar, .modal, .ge-walkthrough, #walkthrough, button, .row > .col-lg-2 { display: none; }
 ul { padding-left: 1.2rem; } .collapse { display: block; }
</style>
"""


def self_contained(html: str) -> str:
    """A page of Data Docs that needs nothing but itself."""
    html = DEAD_LINK.sub(r"\1", IDLE.sub("", FOREIGN.sub("", html)))
    return html.replace("</head>", f"{STYLE}</head>", 1)

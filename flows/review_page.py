"""Review page: its words in two languages, and its HTML."""

WORDS: dict[str, dict[str, str]] = {
    "en": {
        "name": "English",
        "title": "Review",
        "by": "You are",
        "of": "of",
        "waiting": "waiting",
        "empty": "Nothing waits to be reviewed.",
        "input": "Input",
        "proposed": "Proposed",
        "confidence": "Confidence",
        "threshold": "accepted from",
        "similarity": "alike to training",
        "why": "Why",
        "unsure": "the model is not sure enough",
        "uncertified": "no such answer may be accepted without a person yet",
        "out_of_scope": "unlike the records the model learned from",
        "audit": "it was accepted without a person, and is delivered; is it right?",
        "audited": "Audit: this answer was accepted already. Is it right?",
        "record": "Record",
        "line": "line",
        "accept": "Accept",
        "correct": "Save correction",
        "reject": "Reject",
        "reason": "Reason",
        "reason_needed": "Reason (needed)",
        "nothing": "(none)",
        "previous": "Previous",
        "next": "Next",
        "keys": "Keys: a accept, e edit, r reject, j next, k previous, Esc leave a field",
        "first": "Go on",
        "said_accepted": "Accepted.",
        "said_corrected": "Correction saved.",
        "said_rejected": "Rejected.",
        "said_gone": "That record has been decided already.",
        "said_taken": "Somebody was faster:",
        "said_refused": "Not saved:",
        "away": "This could not be done. Go back, and try again in a while; what was saved already is not saved twice.",
        "said_changed": "Not saved: a newer batch proposes something else. Look again.",
    },
    "zh": {
        "name": "中文",
        "title": "复核",
        "by": "复核人",
        "of": "/",
        "waiting": "条待复核",
        "empty": "没有待复核的记录。",
        "input": "输入",
        "proposed": "模型建议",
        "confidence": "置信度",
        "threshold": "自动通过线",
        "similarity": "与训练数据相似度",
        "why": "原因",
        "unsure": "模型把握不足",
        "uncertified": "此类答案尚不能自动通过",
        "out_of_scope": "与模型学过的记录不相似",
        "audit": "已自动通过并交付；请核对是否正确",
        "audited": "抽查：此答案已自动通过。是否正确？",
        "record": "记录",
        "line": "行",
        "accept": "通过",
        "correct": "保存更正",
        "reject": "驳回",
        "reason": "理由",
        "reason_needed": "理由（必填）",
        "nothing": "（无）",
        "previous": "上一条",
        "next": "下一条",
        "keys": "快捷键：a 通过，e 编辑，r 驳回，j 下一条，k 上一条，Esc 离开输入框",
        "first": "继续",
        "said_accepted": "已通过。",
        "said_corrected": "更正已保存。",
        "said_rejected": "已驳回。",
        "said_gone": "该记录已被处理。",
        "said_taken": "已有人先处理：",
        "said_refused": "未保存：",
        "away": "操作未能完成。请返回，稍后再试；已保存的不会重复保存。",
        "said_changed": "未保存：新批次给出了不同的建议，请再看一遍。",
    },
}

PAGE = """<!doctype html>
<html lang="{{ language }}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ words.title }} · {{ process }}</title>
<style nonce="{{ nonce }}">
:root { color-scheme: light dark; --line: #d5d9e0; --soft: #f4f6f9; --text: #1c2330; --page: #fff; --accent: #1f5fa8; --bad: #a3261b; }
@media (prefers-color-scheme: dark) {
  :root { --line: #3a4250; --soft: #222935; --text: #e4e8ee; --page: #171c25; --accent: #8bbcf2; --bad: #ff9d92; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page);
  max-width: 58rem; margin: 1rem auto; padding: 0 1rem; }
header, nav, .row { display: flex; gap: 1rem; align-items: baseline; flex-wrap: wrap; }
header { justify-content: space-between; border-bottom: 1px solid var(--line); }
h1 { font-size: 1.3rem; margin: .3rem 0; } h2 { font-size: 1rem; margin: 1rem 0 .3rem; }
dl { display: grid; grid-template-columns: minmax(7rem, auto) 1fr; gap: .2rem 1rem; margin: 0;
  background: var(--soft); padding: .6rem 1rem; }
dt { color: var(--accent); } dd { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.said { background: var(--soft); border-left: 4px solid var(--accent); padding: .4rem 1rem; } .fault { border-color: var(--bad); }
.doubtful { color: var(--bad); font-weight: 600; }
form { margin: .8rem 0; } label { display: block; }
input, select, textarea { font: inherit; width: 100%; box-sizing: border-box; padding: .3rem; color: inherit; background: var(--page);
  border: 1px solid var(--line); border-radius: 4px; }
textarea { min-height: 8rem; }
button { font: inherit; padding: .4rem 1.2rem; border: 1px solid var(--accent); border-radius: 4px; background: var(--page);
  color: var(--accent); cursor: pointer; }
button.main { background: var(--accent); color: var(--page); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 1px; }
a { color: var(--accent); } small { opacity: .8; }
</style>
</head>
<body>
<header><h1>{{ words.title }} · {{ process }}</h1>
<span>{{ words.by }} {{ reviewer }} ·
<a href="{{ other[2] }}" lang="{{ other[0] }}" hreflang="{{ other[0] }}">{{ other[1] }}</a></span></header>
<main>
{% if said %}<p class="said{% if fault %} fault{% endif %}" role="status">{{ said }} {{ detail }}</p>{% endif %}
{% if item %}
<nav><span>{{ place }} {{ words.of }} {{ count }} {{ words.waiting }}</span>
{% if before %}<a rel="prev" href="{{ before }}">{{ words.previous }} (k)</a>{% endif %}
{% if after %}<a rel="next" href="{{ after }}">{{ words.next }} (j)</a>{% endif %}</nav>
{% if item.audited %}<p class="said" id="audit">{{ words.audited }}</p>{% endif %}
<h2>{{ words.input }}</h2>
<dl>{% for name, value in item.inputs %}<dt>{{ name }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
<h2>{{ words.proposed }}</h2>
<dl id="proposed">{% for field in item.fields %}<dt>{{ field.name }}</dt><dd>{{ field.proposed or words.nothing }}
{%- if field.sure %} <small{% if field.doubtful %} class="doubtful"{% endif %}>{{ field.sure }}</small>{% endif %}</dd>{% endfor %}
<dt>{{ words.confidence }}</dt><dd>{{ item.confidence }}
{%- if item.threshold %} <small>({{ words.threshold }} {{ item.threshold }})</small>{% endif %}
{%- if item.similarity %} <small>{{ words.similarity }} {{ item.similarity }}</small>{% endif %}</dd>
<dt>{{ words.why }}</dt><dd>{{ item.why }}</dd>
<dt>{{ words.record }}</dt>
<dd><small>{{ item.id }} · {{ item.batch }} · {{ words.line }} {{ item.line }} · {{ item.version }}</small></dd></dl>
<form method="post" action="{{ action }}"><input type="hidden" name="action" value="accept">
<input type="hidden" name="shown" value="{{ item.shown }}">
<button class="main" id="accept">{{ words.accept }} (a)</button></form>
<form method="post" action="{{ action }}" id="edit"><input type="hidden" name="action" value="correct">
<input type="hidden" name="shown" value="{{ item.shown }}">
{% for field in item.fields %}<label>{{ field.name }}
{% if field.long %}<textarea name="{{ field.key }}" required>{{ field.value }}</textarea>
{% elif field.choices %}<select name="{{ field.key }}">
{%- if field.optional or field.value not in field.choices %}<option value=""></option>{% endif %}
{%- for choice in field.choices %}<option{% if choice == field.value %} selected{% endif %}>{{ choice }}</option>{% endfor %}</select>
{% else %}<input name="{{ field.key }}" value="{{ field.value }}" autocomplete="off"
{%- if not field.optional %} required{% endif %}>{% endif %}</label>{% endfor %}
<label>{{ words.reason }}<input name="reason" maxlength="2000" autocomplete="off" value="{{ item.reason }}"></label>
<button>{{ words.correct }} (e)</button></form>
<form method="post" action="{{ action }}" id="reject"><input type="hidden" name="action" value="reject">
<input type="hidden" name="shown" value="{{ item.shown }}">
<label>{{ words.reason_needed }}<input name="reason" maxlength="2000" required autocomplete="off"></label>
<button>{{ words.reject }} (r)</button></form>
<p><small>{{ words['keys'] }}</small></p>
{% elif count %}<p><a rel="next" href="{{ first }}">{{ words.first }} (j)</a></p>
{% else %}<p>{{ words.empty }}</p>{% endif %}
</main>
<script nonce="{{ nonce }}">
const press = { a: () => document.querySelector('#accept'), j: () => document.querySelector('a[rel=next]'),
  k: () => document.querySelector('a[rel=prev]') };
const enter = { e: '#edit select, #edit textarea, #edit input:not([type=hidden])', r: '#reject input:not([type=hidden])' };
let sent = false;
document.addEventListener('submit', event => { if (sent) event.preventDefault(); sent = true; });
document.addEventListener('keydown', event => {
  if (event.key === 'Escape') { document.activeElement.blur(); return; }
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.repeat) return;
  if (document.activeElement.matches('input, select, textarea')) return;
  const target = press[event.key] && press[event.key]();
  if (target) { event.preventDefault(); target.click(); return; }
  const field = enter[event.key] && document.querySelector(enter[event.key]);
  if (field) { event.preventDefault(); field.focus(); if (field.select) field.select(); }
});
</script>
</body>
</html>
"""

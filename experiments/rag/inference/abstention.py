"""Whether an answer says that it does not know, and nothing else."""

from __future__ import annotations

import re

from experiments.rag.inference.scripts import fold_marks
from experiments.rag.inference.text import sentences

_IS = re.compile(r"\b(it|there|that|what|here)'s\b")
_WORD = re.compile(r"\d+\.\d+|[^\W_]+")
_SOURCE = r"(?:context|passages?|text|documents?|articles?|sources?|information|excerpts?)"
_TELLS = (
    r"(?:say|mention|contain|provide|state|tell|discuss|include|answer|specify|address|give|indicate|cover|reveal|have)"
)
_ABSTENTION = re.compile(
    r"\b(?:i|we) (?:do|can|could) not (?:\w+ly )?(?:know|answer|say|tell|find|determine)\b"
    r"|\b(?:i|we) (?:am|are) (?:not (?:sure|certain|able to)|unable to|unsure)\b"
    r"|\bi have no (?:idea|information|clue)\b|\bi do not have (?:any )?(?:access|information)\b"
    r"|\bnot in the (?:\w+ )?(?:context|passages?|text)\b"
    r"|\b(?:is|are|was|were) not (?:\w+ly )?(?:mentioned|stated|specified|discussed|addressed)\b"
    r"|\b(?:is|are|was|were) not (?:\w+ly )?(?:provided|given|known)(?: (?:in|by|from|here|if|whether)\b|$)"
    rf"|\b{_SOURCE}(?: \w+){{0,3}} (?:does|do|did) not (?:\w+ly )?{_TELLS}\b"
    rf"|\b(?:none|neither) of (?:the|these|those) (?:\w+ )?{_SOURCE} (?:\w+ly )?{_TELLS}"
    rf"|^(?:the |this |that |an? )?(?:answer|information)(?: \w+){{0,4}} (?:is|was) (?:not|un) ?"
    r"(?:available|found|provided|clear|known|included|present)\b"
    r"|^(?:it |this |that |the answer |the question |the question asked )?(?:can|could) not be (?:\w+ly )?"
    r"(?:determined|answered|found|known|inferred|established)\b"
    r"|^(?:it|this|that|the answer) is (?:not (?:possible|clear)|impossible|unclear|unknown|unspecified)\b"
    r"|\b(?:is|are|was|were) no (?:information|mention|answer)\b"
    r"|\b(?:is|are|was|were) (?:insufficient|not enough) (?:information|context|evidence|data)\b"
    r"|^(?:insufficient|not enough) (?:information|context|evidence|data)\b|^no (?:relevant )?information\b"
    r"|\b(?:not (?:have )?(?:enough|sufficient)|not have(?: any| that| this)?) information\b"
    r"|\bunanswerable\b|^no answer\b|^(?:unknown|not known|no idea|not sure|n a|na|none given|nobody knows"
    r"|not available"
    r"|not specified|not mentioned|not stated|not found)$"
)
_CLAUSE = re.compile(r"[;\uff1b]|,? but ")
_EXCUSE = re.compile(r"^(?:(?:i am |we are )?(?:very )?sorry|unfortunately|i apologi[sz]e)$")
# The same in other languages, as whole clauses (accents aside): what is added to them may be an answer.
_ELSEWHERE = re.compile(
    r"(?:(?:很)?(?:抱歉|对不起|對不起)[,\uff0c])?(?:我|我们|我們)?(?:并|並)?"
    r"(?:不知道|不清楚|不确定|不確定|无法回答|無法回答|无法确定|無法確定|不知)(?:答案|这个问题|這個問題|该问题)?"
    r"|(?:文中|文章|上下文|资料|資料|段落|文本)?(?:中)?(?:没有|沒有|未)"
    r"(?:提到|提及|说明|說明|提供)(?:相关信息|相關信息|这一点|答案)?"
    r"|(?:私は|私には)?(?:わかりません|分かりません|知りません|わからない|分からない|不明です|お答えできません|回答できません)"
    r"|(?:저는 |나는 )?(?:잘 )?(?:모르겠습니다|모릅니다|모르겠어요|몰라요|모른다|알 수 없습니다|답변할 수 없습니다)"
    r"|(?:desolee?,? )?je (?:ne )?(?:le )?sais pas|je l'ignore|(?:lo s"
    r"iento,? )?(?:yo )?no (?:lo )?se|no tengo (?:ni )?idea"
    r"|(?:(?:es )?tut mir leid,? )?(?:(?:das )?(?:ich )?(?:weiss|weiß)(?: ich| es| das)? (?:es )?(?:leider )?nicht"
    r"|keine ahnung)"
    r"|(?:mi dispiace,? )?non (?:lo )?so|(?:eu )?nao (?:o )?sei|(?:ik )?weet (?:ik )?het niet|(?:ja )?nie wiem"
    r"|(?:jag )?vet (?:jag )?(?:ej|inte)|jeg vet ikke|jeg ved det ikke|en tieda|(?:ben )?bilmiyorum|(?:eu )?nu stiu"
    r"|(?:я )?(?:этого )?не знаю|я не знаю этого|не известно|неизвестно|(?:я )?не знаю|δεν ξερω|δεν γνωριζω"
    r"|(?:انا )?لا (?:اعرف|اعلم|ادري)|אני לא יודעת?"
    r"|(?:मुझे |मैं )?(?:यह )?(?:नहीं (?:पता|मालूम|जानता|जानती)|पता नहीं)"
    r"(?: है| हूँ)?"
    r"|(?:ฉัน|ผม|เรา)?ไม่(?:ทราบ|รู้|แน่ใจ)(?:ครับ|ค่ะ|คะ)?|(?:toi )?khong biet|saya tidak tahu|tidak tahu"
)


def abstains(answer: str) -> bool:
    """Whether an answer says nothing, or says that it does not know and nothing else."""
    clauses = [clause.strip() for sentence in sentences(answer) for clause in _CLAUSE.split(sentence)]
    return all(_silent(clause) for clause in clauses)


def _silent(clause: str) -> bool:
    plain = _plain(clause)
    if not plain or _EXCUSE.search(plain) or _ABSTENTION.search(plain):
        return True
    folded = fold_marks(clause.replace("\u2019", "'")).casefold().strip(" .!?\u3002\uff01\uff1f\u0964\"'()*")
    return _ELSEWHERE.fullmatch(folded) is not None


def _plain(text: str) -> str:
    """Words of a text in lower case, `n't` and the like written out."""
    text = text.casefold().replace("\u2019", "'").replace("can't", "can not").replace("cannot", "can not")
    text = text.replace("won't", "will not").replace("n't", " not").replace("'m", " am").replace("'re", " are")
    text = _IS.sub(r"\1 is", text)
    return " ".join(_WORD.findall(text))

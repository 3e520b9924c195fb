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
    rf"|\b(?:is|are|was|were) not (?:\w+ly )?(?:mentioned|stated|specified|discussed|addressed)"
    rf"(?:$|(?: \w+){{0,3}} {_SOURCE}\b| (?:here|anywhere|explicitly)\b)"
    rf"|\b(?:is|are|was|were) not (?:\w+ly )?(?:provided|given|known)(?: (?:here|if|whether)\b|"
    rf" (?:in|by|from) (?:the |this |these |those |any )?(?:\w+ )?{_SOURCE}\b|$)"
    rf"|\b{_SOURCE}(?: \w+){{0,3}} (?:does|do|did) not (?:\w+ly )?{_TELLS}\b"
    rf"|\b(?:none|neither) of (?:the|these|those) (?:\w+ )?{_SOURCE} (?:\w+ly )?{_TELLS}"
    rf"|^(?:the |this |that |an? )?(?:answer|information)(?: \w+){{0,4}} (?:is|was) (?:not|un) ?"
    rf"(?:available|found|provided|clear|known|included|present)\b(?! by (?!(?:the |this |these )?{_SOURCE}))"
    r"|^(?:it |this |that |the answer |the question |the question asked )?(?:can|could) not be (?:\w+ly )?"
    r"(?:determined|answered|found|known|inferred|established)\b"
    r"|^(?:it|this|that|the answer) is (?:not (?:possible|clear)|unclear|unknown|unspecified"
    r"|impossible to (?:say|tell|know|determine|answer))\b"
    r"|^(?:the )?(?:\w+ ){1,3}(?:is|are|was|were) (?:unknown|unclear|unspecified)$"
    r"|\b(?:is|are|was|were) no (?:information|mention|answer)\b"
    r"|\b(?:is|are|was|were) (?:insufficient|not enough) (?:information|context|evidence|data)\b"
    r"|^(?:insufficient|not enough) (?:information|context|evidence|data)\b|^no (?:relevant )?information\b"
    r"|\b(?:not (?:have )?(?:enough|sufficient)|not have(?: any| that| this)?) (?:information|context|data)\b"
    rf"|\b{_SOURCE}(?: \w+){{0,2}} (?:is|are) (?:not (?:enough|sufficient)|insufficient)\b"
    r"|\bunanswerable\b|^no answer\b|^(?:unknown|unclear|can not say|could not say|not known"
    r"|no idea|not sure|n a|na|none given|nobody knows"
    r"|not available"
    r"|not specified|not mentioned|not stated|not found)$"
)
_CLAUSE = re.compile(r"[;\uff1b]|,? but ")
_SAYS_WHERE = re.compile(
    rf"^(?:based (?:only |solely )?on|from|according to|in|given) (?:the |this |these |what )?(?:\w+ ){{0,2}}{_SOURCE}"
    r"(?: alone| above)? "
)
_GUESS = re.compile(
    r"[,;:]\s*(?:but |though |still )?"
    r"(?:it is|it['\u2019]s|it was|maybe|perhaps|probably|possibly|i think|i guess|i believe)\b",
    re.IGNORECASE,
)
_OPENS = re.compile(  # words before a comma that are no answer
    r"(?:based|from|according|in|given|with|without|as|of|for|to|after|while|although|though|since|because|if|when|well"
    r"|hmm|no|sorry|i|we|unfortunately|regrettably|however|so|therefore|thus|overall|the|this|that|there|these)\b|\W*$"
)
_TITLE = re.compile(r"(?<!\w)['\"\u2018\u201c].{3,}?['\"\u2019\u201d](?!\w)")
_EXCUSE = re.compile(r"^(?:(?:i am |we are )?(?:very )?sorry|unfortunately|i apologi[sz]e)$")
# The same in other languages, as whole clauses (accents aside): what is added to them may be an answer.
_ELSEWHERE = re.compile(
    r"(?:(?:根据|根據)[^,\uff0c]{1,12}[,\uff0c])?(?:(?:很)?(?:抱歉|对不起|對不起)[,\uff0c])?(?:我|我们|我們)?(?:并|並)?"
    r"(?:不知道|不清楚|不确定|不確定|无法回答|無法回答|无法确定|無法確定|不知)(?:答案|这个问题|這個問題|该问题)?"
    r"|(?:文中|文章|上下文|资料|資料|段落|文本)?(?:中)?(?:没有|沒有|未)"
    r"(?:提到|提及|说明|說明|提供)(?:相关信息|相關信息|这一点|答案)?"
    r"|(?:私は|私には)?(?:わかりません|分かりません|知りません|わからない|分からない|不明です|お答えできません|回答できません)"
    r"|(?:저는 |나는 )?(?:잘 )?(?:모르겠습니다|모릅니다|모르겠어요|몰라요|모른다|알 수 없습니다|답변할 수 없습니다)"
    r"|(?:desolee?,? )?je (?:ne )?(?:le )?sais pas|je l'ignore|(?:lo s"
    r"iento,? )?(?:yo )?no (?:lo )?se|no tengo (?:ni )?idea"
    r"|no se (?:menciona|indica|especifica)(?: en el (?:texto|contexto))?|(?:en el (?:texto|contexto) )?no se menciona"
    r"|(?:в тексте |в контексте )?(?:это )?не (?:указано|упоминается|сказано)"
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
    plain = _plain(_TITLE.sub(" ", clause)) or _plain(clause)  # a title alone is the answer
    if (guess := _GUESS.search(clause)) and not _ABSTENTION.search(_plain(clause[guess.start() :])):
        return False  # it does not know, and answers all the same
    plain = _SAYS_WHERE.sub("", plain)
    head, comma, rest = clause.partition(",")
    if (
        comma
        and not _OPENS.match(_plain(head))
        and not _ABSTENTION.search(_plain(head))
        and _ABSTENTION.search(_plain(rest))
    ):
        return False  # Paris, I do not know why
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

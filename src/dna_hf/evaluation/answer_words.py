"""The words by which answers name an option, in the languages that answers are read in.

Each language adds to the same few kinds of words; [`~dna_hf.evaluation.answers`] puts the letter of an option before,
between or behind them. Texts are compared without regard to case.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """The words of one language, as regular expressions without groups.

    Args:
        answer: what the option is called: "answer", "the correct choice".
        copula: what stands between that and the letter: "is".
        choose: what stands before the letter of an option that is chosen: "I choose".
        right: what stands behind the letter of the right option: "is correct".
        denied: what stands before the letter of an option that is denied: "not".
        wrong: what stands behind the letter of a wrong option: "is wrong".
        both: what stands between two letters, of which none is chosen: "or".
        filler: words that may stand right before the letter: "option", "probably".
    """

    answer: str
    copula: str
    choose: str
    right: str
    denied: str
    wrong: str
    both: str
    filler: str


LANGUAGES = {
    "English": Words(
        answer=r"\banswer|\b(?:correct|right|best|final|likely) (?:option|choice|selection|letter)",
        copula=r"\b(?:is|be)\b",
        choose=r"\b(?:choose|select|pick|go with|say)\b",
        right=r"\b(?:is|seems|looks) (?:the )?(?:most likely )?(?:correct|right|best|true|answer)\b",
        denied=r"(?:\bnot|\bcannot|n't|\bneither|\bnor|\brather than|\binstead of)"
        r"(?: be| (?:think|believe)[^.;!?\n]{0,40}?\bis)?",
        wrong=r"\b(?:is|was|can be)(?: (?:not\b|wrong|incorrect|false|ruled out|excluded)|n't)",
        both=r"\b(?:or|and)\b",
        filler=r"\b(?:most|likely|probably|clearly|definitely|certainly|obviously|surely|perhaps|maybe|therefore|thus|"
        r"option|choice|letter|answer)\b",
    ),
    "Chinese": Words(
        answer=r"答案|正确(?:的)?(?:答案|选项)|正確(?:的)?(?:答案|選項)|最佳(?:答案|选项|選項)|选项|選項",
        copula=r"(?:应该|應該|应|應)?(?:是|为|為|选|選)",
        choose=r"(?:选择|選擇|选|選)",
        right=r"(?:是)?(?:正确|正確|对|對)",
        denied=r"(?:不是|不选|不選|而非|不应|不應)",
        wrong=r"(?:是)?(?:不是(?:正确|正確)|不对|不對|不正确|不正確|错误|錯誤|错的|錯的|错|錯)",
        both=r"(?:或者|或|和|与|與|还是|還是|、)",
        filler=r"(?:选项|選項|答案|应该|應該|可能|显然|顯然|第)",
    ),
    "Japanese": Words(
        answer=r"正しい(?:答え|選択肢)|答え|正解|回答|解答|選択肢",
        copula=r"(?:は|が|：)",
        choose=r"(?!)",
        right=r"(?:が|は)(?:正しい|正解|答え)|を選(?:び|択)|です|だ(?:と思)?",
        denied=r"(?!)",
        wrong=r"(?:では|じゃ)(?:ない|ありません)|(?:は|が)(?:間違い|誤り|違)",
        both=r"(?:または|もしくは|と|か|や|、)",
        filler=r"(?:選択肢|おそらく|多分|たぶん)",
    ),
    "Korean": Words(
        answer=r"정답|답|답변|올바른 (?:답|선택지)|선택지",
        copula=r"(?:은|는|이|가)",
        choose=r"(?!)",
        right=r"(?:이|가) (?:정답|답|맞)|입니다|이다|번?을 선택",
        denied=r"(?!)",
        wrong=r"(?:이|가|은|는)? ?(?:아닙니다|아니|틀)",
        both=r"(?:또는|혹은|이나|나|와|과|하고)",
        filler=r"(?:선택지|아마|아마도|보기)",
    ),
    "German": Words(
        answer=r"\bantwort|\b(?:richtige|korrekte|beste) (?:option|wahl|auswahl|möglichkeit)|\blösung",
        copula=r"\b(?:ist|lautet|wäre|sei)\b",
        choose=r"\b(?:wähle|nehme|würde sagen|tippe auf|entscheide mich für)\b",
        right=r"\bist (?:die )?(?:richtige|richtig|korrekt|korrekte|beste|antwort|wahr)\b",
        denied=r"\b(?:nicht|weder|noch|statt|keinesfalls)",
        wrong=r"\bist (?:nicht|falsch|unrichtig|ausgeschlossen)",
        both=r"\b(?:oder|und)\b",
        filler=r"\b(?:die|der|das|option|antwort|buchstabe|wohl|wahrscheinlich|vermutlich|eindeutig|also)\b",
    ),
    "French": Words(
        answer=r"\bréponse|\b(?:bonne|meilleure) (?:option|réponse)|\bsolution",
        copula=r"\b(?:est|serait)\b",
        choose=r"\b(?:choisis|sélectionne|prends|opte pour|dirais)\b",
        right=r"\best (?:la )?(?:bonne|correcte?|juste|meilleure|réponse|vraie?)\b",
        denied=r"\b(?:pas|ni|plutôt que|au lieu de)",
        wrong=r"\b(?:est|n'est) (?:pas|fausse?|incorrecte?|exclue?)",
        both=r"\b(?:ou|et)\b",
        filler=r"\b(?:la|le|l'option|option|réponse|lettre|probablement|sans doute|donc|clairement)\b|\bl'",
    ),
    "Spanish": Words(
        answer=r"\brespuesta|\b(?:opción|alternativa) (?:correcta|mejor)|\bsolución",
        copula=r"\b(?:es|sería|debe ser)\b",
        choose=r"\b(?:elijo|escojo|selecciono|elegiría|diría)\b",
        right=r"\bes (?:la )?(?:correcta|correcto|mejor|respuesta|verdadera)\b",
        denied=r"\b(?:no es|no|ni|en vez de|en lugar de)",
        wrong=r"\b(?:no es|es (?:incorrecta|incorrecto|falsa|errónea))",
        both=r"\b(?:o|y)\b",
        filler=r"\b(?:la|el|opción|respuesta|letra|probablemente|claramente|seguramente)\b",
    ),
    "Portuguese": Words(
        answer=r"\bresposta|\b(?:opção|alternativa) (?:correta|certa)",
        copula=r"\b(?:é|seria)\b",
        choose=r"\b(?:escolho|seleciono|escolheria|diria)\b",
        right=r"\bé (?:a )?(?:correta|correto|certa|melhor|resposta)\b",
        denied=r"\b(?:não|nem|em vez de)(?: é)?",
        wrong=r"\b(?:não é|está errada|é (?:incorreta|falsa))",
        both=r"\b(?:ou|e)\b",
        filler=r"\b(?:opção|alternativa|resposta|letra|provavelmente|claramente)\b",
    ),
    "Italian": Words(
        answer=r"\brisposta|\b(?:opzione|scelta) (?:corretta|giusta|migliore)",
        copula=r"(?:\bè|\bsarebbe\b)",
        choose=r"\b(?:scelgo|seleziono|sceglierei|direi)\b",
        right=r"\bè (?:la )?(?:corretta|corretto|giusta|migliore|risposta)\b",
        denied=r"\b(?:non è|non|né|invece di)",
        wrong=r"\b(?:non è|è (?:sbagliata|errata|falsa))",
        both=r"\b(?:o|oppure|ed)\b",
        filler=r"\b(?:la|il|l'opzione|opzione|risposta|lettera|probabilmente|chiaramente)\b",
    ),
}


def any_of(kind: str, *languages: str) -> str:
    """A regular expression of the words of one kind, of all languages or of some.

    Args:
        kind: name of a field of [`Words`].
        languages: names of languages; all by default.
    """
    return "(?i:" + "|".join(f"(?:{getattr(LANGUAGES[name], kind)})" for name in languages or LANGUAGES) + ")"

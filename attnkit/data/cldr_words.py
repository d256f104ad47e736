"""Words and templates of the generated sentences in English, German, Korean and French.

Avoids forms that would be wrong: German `von dem` (it contracts to `vom`), and French words that
need an elision.
"""

from __future__ import annotations

TEMPLATES: dict[str, dict[str, str]] = {
    "lose": {
        "en": "The:who.the {who} {act} {count} {unit} of:of {what} {when}{mark}",
        "de": "{who} {aux} {when} {count} {unit} {what} {act}{mark}",
        "ko": "{who} {when} {what} {count}{unit} {act}{mark}",
        "fr": "{who} {aux} {act} {count} {unit} de:of {what} {when}{mark}",
    },
    "pay": {
        "en": "The:who.the {who} {act} {money} {place} the:thing.the {thing} {on} {date}{mark}",
        "de": "{who} {aux} {on} {date} {money} {place} {thing} {act}{mark}",
        "ko": "{who} {date}{on} {thing} {place} {money} {act}{mark}",
        "fr": "{who} {aux} {act} {money} {place} {thing} {on} {date}{mark}",
    },
    "will": {
        "en": "The:who.the {who} {modal} {do} {when} {at} {clock}{mark}",
        "de": "{who} {modal} {when} {at} {clock} Uhr:half.word {do}{mark}",
        "ko": "{who} {when} {clock}{at} {do} {modal}{mark}",
        "fr": "{who} {modal} {do} {when} {at} {clock}{mark}",
    },
    "far": {
        "en": "It:it {is} {count} {unit} from:from the:a.the {a} to:to the:b.the {b}{mark}",
        "de": "Es:it {is} {count} {unit} von:from {a} zu:to {b}{mark}",
        "ko": "{a}에서:from {b}까지:to {count}{unit}{is}{mark}",
        "fr": "Il:it y:is {is} {count} {unit} entre:from {a} et:to {b}{mark}",
    },
    "cost": {
        "en": "The:what.the {what} {weigh} {count} {unit} {and} {cost} {money}{mark}",
        "de": "{what} {weigh} {count} {unit}{and} {cost} {money}{mark}",
        "ko": "{what} 무게가:weigh.word {count}{unit}{weigh}{and} "
        "가격은:cost.word {money}{cost}{mark}",
        "fr": "{what} {weigh} {count} {unit} {and} {cost} {money}{mark}",
    },
}
"""Sentence templates. `{slot}` is filled in; `word:key` is a literal word with its own key."""

CHOICES: dict[str, dict[str, tuple[str, str, str, str]]] = {
    "aux": {"": ("", "hat", "", "a"), "had": ("had", "hatte", "", "avait")},
    "when": {  # `ago` and `in` are CLDR's
        "ago": ("", "", "", ""),
        "in": ("", "", "", ""),
        "after": ("after", "nach", "후에", "après"),
        "within": ("within", "binnen", "안에", "en"),
    },
    "on": {
        "on": ("on", "am", "에", "le"),
        "before": ("before", "vor dem", " 전에", "avant le"),
        "after": ("after", "nach dem", " 후에", "après le"),
    },
    "at": {
        "at": ("at", "um", "에", "à"),
        "before": ("before", "vor", " 전에", "avant"),
    },
    "place": {
        "for": ("for", "für", "값으로", "pour"),
        "behind": ("behind", "hinter", "뒤에서", "derrière"),
        "under": ("under", "unter", "아래에서", "sous"),
    },
    "modal": {
        "will": ("will", "wird", "것입니다", "va"),
        "must": ("must", "muss", "합니다", "doit"),
        "can": ("can", "kann", "수 있습니다", "peut"),
    },
    "is": {"now": ("is", "sind", "입니다", "a"), "then": ("was", "waren", "이었습니다", "avait")},
    "weigh": {
        "now": ("weighs", "wiegt", "이", "pèse"),
        "then": ("weighed", "wog", "이었", "pesait"),
    },
    "cost": {
        "now": ("costs", "kostet", "입니다", "coûte"),
        "then": ("cost", "kostete", "이었습니다", "coûtait"),
    },
    "and": {"and": ("and", " und", "고", "et"), "but": ("but", ", aber", "지만", "mais")},
    "mark": {".": (".", ".", ".", "."), "!": ("!", "!", "!", " !")},
}
"""Function words by language, English, German, Korean, French. Templates leave them open, so that
none can be predicted without its counterpart.
"""

WHO = {  # English, German with article, Korean, French with article
    "doctor": ("doctor", "der Arzt", "의사", "le médecin"),
    "teacher": ("teacher", "der Lehrer", "선생님", "le professeur"),
    "woman": ("woman", "die Frau", "여자", "la femme"),
    "farmer": ("farmer", "der Landwirt", "농부", "le fermier"),
    "baker": ("baker", "der Bäcker", "제빵사", "le boulanger"),
    "girl": ("girl", "das Mädchen", "소녀", "la fille"),
    "king": ("king", "der König", "왕", "le roi"),
    "painter": ("painter", "die Malerin", "화가", "la peintre"),
    "driver": ("driver", "der Fahrer", "운전사", "le chauffeur"),
    "cook": ("cook", "die Köchin", "요리사", "la cuisinière"),
}
WHAT = {  # German: article that names it as a subject; Korean; French: article
    "salt": ("salt", "das Salz", "소금", "le sel"),
    "rice": ("rice", "der Reis", "쌀", "le riz"),
    "sugar": ("sugar", "der Zucker", "설탕", "le sucre"),
    "butter": ("butter", "die Butter", "버터", "le beurre"),
    "coffee": ("coffee", "der Kaffee", "커피", "le café"),
    "flour": ("flour", "das Mehl", "밀가루", "la farine"),
    "honey": ("honey", "der Honig", "꿀", "le miel"),
    "milk": ("milk", "die Milch", "우유", "le lait"),
}
THING = {  # German: accusative, dative; Korean; French
    "house": ("house", "das Haus", "dem Haus", "집", "la maison"),
    "ship": ("ship", "das Schiff", "dem Schiff", "배", "le bateau"),
    "library": ("library", "die Bibliothek", "der Bibliothek", "도서관", "la bibliothèque"),
    "garden": ("garden", "den Garten", "dem Garten", "정원", "le jardin"),
    "bridge": ("bridge", "die Brücke", "der Brücke", "다리", "le pont"),
    "tower": ("tower", "den Turm", "dem Turm", "탑", "la tour"),
    "mill": ("mill", "die Mühle", "der Mühle", "방앗간", "le moulin"),
    "castle": ("castle", "das Schloss", "dem Schloss", "성", "le château"),
}
ACT = {  # English past and participle, German and French participles, Korean past
    "lost": ("lost", "lost", "verloren", "잃어버렸습니다", "perdu"),
    "bought": ("bought", "bought", "gekauft", "샀습니다", "acheté"),
    "sold": ("sold", "sold", "verkauft", "팔았습니다", "vendu"),
    "found": ("found", "found", "gefunden", "찾았습니다", "trouvé"),
    "hid": ("hid", "hidden", "versteckt", "숨겼습니다", "caché"),
    "paid": ("paid", "paid", "bezahlt", "지불했습니다", "payé"),
    "offered": ("offered", "offered", "geboten", "제안했습니다", "offert"),
    "received": ("received", "received", "bekommen", "받았습니다", "reçu"),
    "saved": ("saved", "saved", "gespart", "모았습니다", "économisé"),
}
ACTS = {
    "lose": ("lost", "bought", "sold", "found", "hid"),
    "pay": ("paid", "offered", "received", "saved", "found", "hid"),
}
"""The verbs that a template allows."""

DO = {  # Korean: before `것입니다` and `수 있습니다`, before `합니다`
    "sleep": ("sleep", "schlafen", "잘", "자야", "dormir"),
    "come": ("come", "kommen", "올", "와야", "venir"),
    "leave": ("leave", "abreisen", "떠날", "떠나야", "partir"),
    "work": ("work", "arbeiten", "일할", "일해야", "travailler"),
    "sing": ("sing", "singen", "노래할", "노래해야", "chanter"),
}
WHENS = {"lose": ("ago", "after", "within"), "will": ("in", "after")}
"""The relative times that a template allows."""

AMOUNTS = (
    "volume-gallon", "volume-liter", "volume-barrel", "mass-kilogram", "mass-gram", "mass-pound"
)  # fmt: skip
MASSES = ("mass-kilogram", "mass-gram", "mass-pound", "mass-ounce")
LENGTHS = ("length-kilometer", "length-mile", "length-meter", "length-foot")
CURRENCIES = ("EUR", "USD", "JPY", "GBP", "CHF", "SEK", "KRW", "CAD")
PERIODS = ("hour", "day", "week")

FUNCTION_WORDS = frozenset(
    ("of", "on", "place", "at", "from", "to", "when", "it", "is", "and", "colon", "mark")
)
"""Keys whose links are possible, not sure."""

CONTRACTIONS = {
    ("von", "dem"): ("vo", "m"),
    ("zu", "dem"): ("zu", "m"),
    ("zu", "der"): ("zu", "r"),
}
"""German prepositions that contract with the following article -> their stem."""

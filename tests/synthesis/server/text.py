"""What the server's model writes: sentences that depend on nothing but the request, and hardly ever repeat.

Kinds of text: ``question``, ``answer``, ``critique`` (ends with its verdict), ``conversation`` (labelled lines). Any of
them has reasoning between <think> and </think> where the request asks for it. The language is the one that the request
names, or else that of its last message.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from tests.synthesis.server.script import Script

RULES: tuple[tuple[str, str], ...] = (
    (r"^USER:", "conversation"),
    (r"[Bb]etter answer|[Rr]evis(?:e|ion)", "answer"),
    (r"VERDICT|[Vv]erdict|[Cc]ritique", "critique"),
    (r"user's (?:\w+ )?(?:message|turn)|[Ww]hat (?:a|the) user writes", "question"),
)
"""Regular expressions on the last message and the last system block, and the kind they mean; ``answer`` otherwise."""

_NAMES = {"German": "de", "French": "fr", "Spanish": "es", "Italian": "it", "Portuguese": "pt", "Dutch": "nl"}
_NAMED = re.compile(r"(?:[Ll]anguage: |[Ii]n )([A-Z][a-z]+)(?=$|\.| unless)", re.MULTILINE)

# subjects, verbs with objects, and ends of sentences; every line is split at its commas
_PARTS = {
    "en": (
        "the ferry,a careful baker,our old kettle,the night train,that second draft,my neighbour,the small garden,"
        "each of the tenants,a broken hinge,the river path,this spreadsheet,the choir,an honest receipt,the landlord,"
        "her violin teacher,the water meter,a quiet library,the youngest player,his first lease,the repair shop,"
        "a longer walk,the morning shift,one clear sentence,the tomato seedlings,that noisy printer,the map",
        "needs a plain explanation,comes with three small costs,works better after a short rest,saves about an hour,"
        "hides the real question,asks for a second look,makes the rest easier,depends on the weather,loses its shape,"
        "carries more weight than expected,answers the first half,leaves room for doubt,shows where the error began,"
        "costs less than a new one,takes twelve careful minutes,improves with every attempt,rarely fails twice,"
        "keeps its value for years,turns the argument around,brings the numbers together,deserves a written note,"
        "goes wrong on cold mornings,teaches patience,holds the whole plan together,starts with a list",
        "before the shops open,when nobody keeps count,after the first payment,on a rainy Tuesday,without extra tools,"
        "for a family of four,as long as the label is dry,even in a crowded kitchen,once the dates are known,"
        "if the contract says so,beside the old station,until the batteries fade,with half the usual effort,"
        "because the order matters,although it looks simple,in most northern towns,by the end of the month,"
        "unless somebody objects,under a warm lamp,through the whole season,against all advice,next to the stairs,"
        "while the paint is wet,in the smaller of two rooms,at twice the distance",
    ),
    "de": (
        "die Fähre,mein Nachbar,der alte Kessel,unser Garten,die Vermieterin,das kleine Buch,der Nachtzug,die Rechnung,"
        "eine ruhige Stunde,der zweite Entwurf,die Werkstatt,das Fahrrad",
        "braucht eine klare Erklärung,kostet weniger als gedacht,wird mit jedem Versuch besser,zeigt den Fehler,"
        "spart eine ganze Stunde,hält den Plan zusammen,verliert an Wert,beantwortet die erste Frage,kommt zu spät,"
        "macht vieles leichter,hängt vom Wetter ab,verdient einen zweiten Blick",
        "bevor die Läden öffnen,nach der ersten Zahlung,an einem nassen Dienstag,ohne neues Werkzeug,für vier Personen,"
        "wenn der Vertrag es sagt,bis zum Ende des Monats,neben der Treppe,obwohl es einfach aussieht,im Winter,"
        "weil die Reihenfolge zählt,in der kleinen Küche",
    ),
    "fr": (
        "le train de nuit,ma voisine,la vieille horloge,notre jardin,le propriétaire,ce petit livre,la facture,"
        "une heure calme,le deuxième essai,cet atelier,la boulangère,le vélo",
        "demande une explication claire,coûte moins que prévu,montre où est l'erreur,dépend du temps qu'il fait,"
        "rend le reste plus facile,mérite un second regard,perd de sa valeur,répond à la première question,"
        "arrive trop tard,garde sa place,fait gagner une heure,tient tout le plan ensemble",
        "avant l'ouverture des magasins,après le premier paiement,un mardi de pluie,sans outil nouveau,en famille,"
        "si le contrat le dit,jusqu'à la fin du mois,à côté de l'escalier,bien que cela semble simple,en hiver,"
        "parce que l'ordre compte,dans la petite cuisine",
    ),
    "es": (
        "el tren de noche,mi vecina,el reloj viejo,nuestro jardín,la dueña,este libro pequeño,la factura,"
        "una hora tranquila,el segundo intento,el taller,la panadera,la bicicleta",
        "necesita una explicación clara,cuesta menos de lo previsto,muestra dónde está el error,depende del tiempo,"
        "hace más fácil lo demás,merece otra mirada,pierde su valor,responde a la primera pregunta,llega muy tarde,"
        "guarda su lugar,ahorra una hora entera,mantiene unido todo el plan",
        "antes de que abran las tiendas,después del primer pago,un martes de lluvia,sin herramientas nuevas,"
        "para cuatro personas,si el contrato lo dice,hasta el fin del mes,junto a la escalera,aunque parezca sencillo,"
        "en invierno,porque el orden importa,en la cocina pequeña",
    ),
    "it": (
        "il treno di notte,la mia vicina,il vecchio orologio,il nostro giardino,la padrona di casa,questo libro,"
        "la bolletta,un'ora tranquilla,il secondo tentativo,l'officina,la fornaia,la bicicletta",
        "ha bisogno di una spiegazione chiara,costa meno del previsto,mostra dove sta l'errore,dipende dal tempo,"
        "rende il resto più facile,merita un altro sguardo,perde valore,risponde alla prima domanda,arriva tardi,"
        "mantiene il suo posto,fa risparmiare un'ora,tiene insieme tutto il piano",
        "prima che aprano i negozi,dopo il primo pagamento,un martedì di pioggia,senza attrezzi nuovi,per la famiglia,"
        "se il contratto lo dice,fino alla fine del mese,accanto alla scala,anche se sembra semplice,in inverno,"
        "perché l'ordine conta,nella cucina piccola",
    ),
    "pt": (
        "o comboio da noite,a minha vizinha,o relógio velho,o nosso jardim,a senhoria,este livro pequeno,a fatura,"
        "uma hora tranquila,a segunda tentativa,a oficina,a padeira,a bicicleta",
        "precisa de uma explicação clara,custa menos do que o previsto,mostra onde está o erro,depende do tempo,"
        "torna o resto mais fácil,merece outro olhar,perde o seu valor,responde à primeira pergunta,chega muito tarde,"
        "guarda o seu lugar,poupa uma hora inteira,mantém o plano todo unido",
        "antes de as lojas abrirem,depois do primeiro pagamento,numa terça de chuva,sem ferramentas novas,"
        "para quatro pessoas,se o contrato o diz,até ao fim do mês,junto à escada,embora pareça simples,no inverno,"
        "porque a ordem conta,na cozinha pequena",
    ),
    "nl": (
        "de nachttrein,mijn buurvrouw,de oude klok,onze tuin,de huisbaas,dit kleine boek,de rekening,een rustig uur,"
        "de tweede poging,de werkplaats,de bakker,de fiets",
        "vraagt om een duidelijke uitleg,kost minder dan gedacht,laat zien waar de fout zit,hangt van het weer af,"
        "maakt de rest makkelijker,verdient een tweede blik,verliest zijn waarde,beantwoordt de eerste vraag,"
        "komt veel te laat,houdt zijn plaats,spaart een heel uur,houdt het hele plan bij elkaar",
        "voordat de winkels opengaan,na de eerste betaling,op een natte dinsdag,zonder nieuw gereedschap,"
        "voor vier personen,als het contract dat zegt,tot het einde van de maand,naast de trap,hoewel het simpel lijkt,"
        "in de winter,omdat de volgorde telt,in de kleine keuken",
    ),
}
_SPLIT = {language: tuple(part.split(",") for part in parts) for language, parts in _PARTS.items()}


def write_text(body: bytes, system: str, last: str, script: Script) -> str:
    """The answer to a request: the same for the same ``body``.

    Args:
        body: What the answer depends on.
        system: Last block of the system prompt, or all of it.
        last: Last message.
        script: Its rules come before those of this file.
    """
    draw = random.Random(body)  # seeds with the SHA-512 of the bytes: the same in every process
    # chat completions have the shared beginning in the same text: what is asked for stands under the last heading
    asked = f"{last}\n{system.rpartition(chr(10) + '# ')[2][-4000:]}"
    kind = _kind(asked, script)
    language = _language(asked, last)
    low, high = script.words
    if kind == "question":
        return _question(draw, language, script)
    if kind == "critique":
        return f"{_prose(draw, 'en', 15, 45)}\n\nVERDICT: {draw.choice(('keep', 'polish', 'rewrite'))}"
    if kind == "conversation":
        return "\n".join(_exchanges(draw, language, asked, script))
    thoughts = f"<think>{_prose(draw, language, 15, 40)}</think>\n" if "<think>" in asked else ""
    return thoughts + _prose(draw, language, low, high)


def _kind(asked: str, script: Script) -> str:
    for part, kind in script.rules:
        if part in asked:
            return kind
    return next((kind for pattern, kind in RULES if re.search(pattern, asked, re.MULTILINE)), "answer")


def _language(asked: str, last: str) -> str:
    found = _NAMED.search(asked)
    if found is not None:
        return _NAMES.get(found[1], "en")
    for language, (subjects, _, ends) in _SPLIT.items():
        if language != "en" and sum(part in last.lower() for part in (*subjects, *ends)) >= 3:
            return language
    return "en"


def _exchanges(draw: random.Random, language: str, asked: str, script: Script) -> list[str]:
    low, high = script.words
    turns = re.search(r"exchanges: (\d+)", asked)
    given = re.search(r"<first_message>\n(.*?)\n</first_message>", asked, re.DOTALL)
    lines = []
    for turn in range(int(turns[1]) if turns else 1):
        lines.append(f"USER: {given[1] if given and turn == 0 else _question(draw, language, script)}")
        if re.search("^REASONING:", asked, re.MULTILINE):
            lines.append(f"REASONING: {_prose(draw, language, 15, 40)}")
        lines.append(f"ANSWER: {_prose(draw, language, low, high)}")
    return lines


def _question(draw: random.Random, language: str, script: Script) -> str:
    low, high = script.words
    return _prose(draw, language, max(5, low // 3), max(10, high // 3), end="?")


def _prose(draw: random.Random, language: str, low: int, high: int, end: str = ".") -> str:
    parts = _SPLIT[language]
    goal, words, sentences = draw.randint(low, high), 0, []
    while words < goal:
        sentence = _sentence(draw, parts)
        words += sentence.count(" ") + 1
        sentences.append(sentence)
    return ". ".join(sentences) + end


def _sentence(draw: random.Random, parts: Sequence[Sequence[str]]) -> str:
    subjects, verbs, ends = parts
    form = draw.randrange(4)
    text = f"{draw.choice(subjects)} {draw.choice(verbs)}"
    if form == 0:
        text = f"{draw.choice(ends)} {text}"
    elif form == 1:
        text = f"{text} {draw.choice(ends)}"
    elif form == 2:
        text = f"{text} {draw.choice(ends)}, {draw.choice(subjects)} {draw.choice(verbs)}"
    else:
        text = f"{text}, {draw.choice(ends)}"
    return text[0].upper() + text[1:]

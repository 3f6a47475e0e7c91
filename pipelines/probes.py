"""Invented texts with the sentiment that a reader expects: negations, other languages, bodies that say nothing.

No company here exists, and nobody's headline was copied.
"""

from dataclasses import dataclass
from typing import Final

NEGATIONS: Final[tuple[tuple[str, str], ...]] = (
    ("Alba Motors beats quarterly profit estimates", "Alba Motors fails to beat quarterly profit estimates"),
    ("Alba Motors outlook not as bad as feared", "Alba Motors outlook as bad as feared"),
    ("Borea Bank meets its capital targets", "Borea Bank does not meet its capital targets"),
    (
        "Borea Bank has enough cash to survive the crisis",
        "Borea Bank does not have enough cash to survive the crisis",
    ),
    ("Cirrus Foods expects revenue growth this year", "Cirrus Foods no longer expects revenue growth this year"),
    ("Cirrus Foods lives up to growth expectations", "Cirrus Foods does not live up to growth expectations"),
    ("Delphi Air wins approval for merger with rival", "Delphi Air does not win approval for merger with rival"),
    (
        "Delphi Air turnaround plan is working, analysts say",
        "Delphi Air turnaround plan is not working, analysts say",
    ),
    ("Estrella Energy returns to profit", "Estrella Energy fails to return to profit"),
    ("Estrella Energy beats forecasts", "Estrella Energy does not beat forecasts"),
    ("Fjord Shipping avoids bankruptcy", "Fjord Shipping fails to avoid bankruptcy"),
    ("Gamma Pharma drug meets main goal in trial", "Gamma Pharma drug does not meet main goal in trial"),
    ("Helio Solar secures financing for new plant", "Helio Solar unable to secure financing for new plant"),
    ("Ister Steel profit rises more than expected", "Ister Steel profit rises less than expected"),
    ("Juno Retail sales growth tops forecasts", "Juno Retail sales growth does not top forecasts"),
    ("Kappa Chips sees no slowdown in demand", "Kappa Chips sees slowdown in demand"),
    ("Lumen Telecom shares recover from early losses", "Lumen Telecom shares fail to recover from early losses"),
    ("Merid Insurance keeps its top credit rating", "Merid Insurance fails to keep its top credit rating"),
    ("Nova Oil not hurt by lower crude prices", "Nova Oil hurt by lower crude prices"),
    ("Orbis Media will not cut its dividend", "Orbis Media will cut its dividend"),
    ("Pallas Bank passes stress test", "Pallas Bank does not pass stress test"),
    ("Quanta Labs cleared of fraud charges", "Quanta Labs not cleared of fraud charges"),
    ("Rhea Cement can repay its bonds on time", "Rhea Cement cannot repay its bonds on time"),
    ("Sella Software impresses investors with cloud growth", "Sella Software fails to impress with cloud growth"),
    ("Terra Mining able to lift output this year", "Terra Mining unable to lift output this year"),
    ("Umbra Hotels says bookings have improved", "Umbra Hotels says bookings have not improved"),
    ("Vesta Homes no longer under investigation for fraud", "Vesta Homes under investigation for fraud"),
    ("Wega Rail reaches deal to end strike", "Wega Rail reaches no deal to end strike"),
    ("Xenia Biotech granted approval for cancer drug", "Xenia Biotech denied approval for cancer drug"),
    ("Ypsilon Autos will not default on its debt", "Ypsilon Autos will default on its debt"),
    ("Zephyr Wind margins no longer shrinking", "Zephyr Wind margins still shrinking"),
)
"""(positive, negative) headlines that differ by little more than a negation."""


@dataclass(frozen=True)
class Translated:
    """A headline in English and, by language (BCP 47), in others."""

    sentiment: str
    english: str
    others: dict[str, str]


TRANSLATIONS: Final[tuple[Translated, ...]] = (
    Translated(
        "positive",
        "Alba Motors shares jump after strong quarterly results",
        {
            "de": "Aktien von Alba Motors springen nach starken Quartalszahlen nach oben",
            "fr": "L'action Alba Motors bondit après de solides résultats trimestriels",
            "es": "Las acciones de Alba Motors se disparan tras unos sólidos resultados trimestrales",
            "it": "Le azioni di Alba Motors balzano dopo i solidi risultati trimestrali",
            "pt": "Ações da Alba Motors disparam após fortes resultados trimestrais",
            "nl": "Aandeel Alba Motors springt omhoog na sterke kwartaalcijfers",
        },
    ),
    Translated(
        "negative",
        "Borea Bank falls after warning on profit",
        {
            "de": "Borea Bank fällt nach Gewinnwarnung",
            "fr": "Borea Bank chute après un avertissement sur résultats",
            "es": "Borea Bank cae tras una advertencia sobre beneficios",
            "it": "Borea Bank cala dopo l'allarme sugli utili",
            "pt": "Borea Bank cai após alerta sobre lucros",
            "nl": "Borea Bank daalt na winstwaarschuwing",
        },
    ),
    Translated(
        "neutral",
        "Cirrus Foods to hold its annual meeting on Thursday",
        {
            "de": "Cirrus Foods hält am Donnerstag seine Hauptversammlung ab",
            "fr": "Cirrus Foods tiendra son assemblée générale jeudi",
            "es": "Cirrus Foods celebrará su junta anual el jueves",
            "it": "Cirrus Foods terrà l'assemblea annuale giovedì",
            "pt": "Cirrus Foods realiza sua assembleia anual na quinta-feira",
            "nl": "Cirrus Foods houdt donderdag zijn jaarvergadering",
        },
    ),
    Translated(
        "negative",
        "Delphi Air files for bankruptcy",
        {
            "de": "Delphi Air meldet Insolvenz an",
            "fr": "Delphi Air dépose le bilan",
            "es": "Delphi Air se declara en quiebra",
            "it": "Delphi Air dichiara bancarotta",
            "pt": "Delphi Air pede falência",
            "nl": "Delphi Air vraagt faillissement aan",
        },
    ),
    Translated(
        "positive",
        "Estrella Energy raises its dividend",
        {
            "de": "Estrella Energy erhöht die Dividende",
            "fr": "Estrella Energy relève son dividende",
            "es": "Estrella Energy aumenta su dividendo",
            "it": "Estrella Energy alza il dividendo",
            "pt": "Estrella Energy aumenta dividendo",
            "nl": "Estrella Energy verhoogt dividend",
        },
    ),
    Translated(
        "negative",
        "Fjord Shipping cuts 2,000 jobs as demand weakens",
        {
            "de": "Fjord Shipping streicht 2.000 Stellen wegen schwächerer Nachfrage",
            "fr": "Fjord Shipping supprime 2 000 emplois face à une demande en baisse",
            "es": "Fjord Shipping recorta 2.000 empleos por la menor demanda",
            "it": "Fjord Shipping taglia 2.000 posti di lavoro per il calo della domanda",
            "pt": "Fjord Shipping corta 2.000 empregos com queda da demanda",
            "nl": "Fjord Shipping schrapt 2.000 banen door zwakkere vraag",
        },
    ),
    Translated(
        "positive",
        "Gamma Pharma wins approval for its cancer drug",
        {
            "de": "Gamma Pharma erhält Zulassung für Krebsmedikament",
            "fr": "Gamma Pharma obtient l'autorisation de son médicament contre le cancer",
            "es": "Gamma Pharma obtiene la aprobación de su fármaco contra el cáncer",
            "it": "Gamma Pharma ottiene l'approvazione per il suo farmaco antitumorale",
            "pt": "Gamma Pharma obtém aprovação para seu medicamento contra o câncer",
            "nl": "Gamma Pharma krijgt goedkeuring voor kankermedicijn",
        },
    ),
    Translated(
        "neutral",
        "Helio Solar appoints new chief financial officer",
        {
            "de": "Helio Solar ernennt neuen Finanzchef",
            "fr": "Helio Solar nomme un nouveau directeur financier",
            "es": "Helio Solar nombra nuevo director financiero",
            "it": "Helio Solar nomina un nuovo direttore finanziario",
            "pt": "Helio Solar nomeia novo diretor financeiro",
            "nl": "Helio Solar benoemt nieuwe financieel directeur",
        },
    ),
    Translated(
        "negative",
        "Ister Steel fined millions over pollution",
        {
            "de": "Ister Steel muss wegen Umweltverschmutzung Millionenstrafe zahlen",
            "fr": "Ister Steel condamné à une amende de plusieurs millions pour pollution",
            "es": "Ister Steel, multada con millones por contaminación",
            "it": "Ister Steel multata per milioni per inquinamento",
            "pt": "Ister Steel recebe multa de milhões por poluição",
            "nl": "Ister Steel krijgt miljoenenboete wegens vervuiling",
        },
    ),
    Translated(
        "positive",
        "Juno Retail lifts sales forecast on strong demand",
        {
            "de": "Juno Retail hebt Umsatzprognose dank starker Nachfrage an",
            "fr": "Juno Retail relève sa prévision de ventes grâce à une forte demande",
            "es": "Juno Retail eleva su previsión de ventas por la fuerte demanda",
            "it": "Juno Retail alza le stime sulle vendite grazie alla forte domanda",
            "pt": "Juno Retail eleva previsão de vendas com forte demanda",
            "nl": "Juno Retail verhoogt omzetverwachting dankzij sterke vraag",
        },
    ),
)
"""Invented headlines, translated by hand."""

EMPTY: Final[tuple[str, ...]] = (
    "",
    "   ",
    "https://example.com/a",
    "www.example.com/b https://example.com/c",
    "&nbsp;",
)
"""Texts of which nothing is left after cleaning."""

ONE_SENTENCE_BODY: Final = (
    "The company is based in the north of the country, where it has offices in several cities, and publishes its "
    "accounts once a year."
)

NEUTRAL_BODY: Final = (
    "This article is provided for information only and is not an offer to buy or to hold any security. The company "
    "was founded several decades ago and is based in the north of the country. It has offices in several cities and "
    "publishes its accounts once a year. A spokesperson was available by telephone during normal office hours. The "
    "editors add background to each article, and the text may be changed when more is known. Readers can choose "
    "which sections they see on the first page. Times are given in the local time zone unless another one is named. "
    "Names of products belong to their owners. Further details can be found in the documents that the company has "
    "filed with the registrar, which anyone may read there."
)
"""Says neither good nor bad of anyone; repeated for long bodies."""

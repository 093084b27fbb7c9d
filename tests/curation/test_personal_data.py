"""Personal data: what is found, what is left alone, and what is done about it."""

import dataclasses
import random
import re
import string

import pytest
from curation_shards import run, shards_of

from lifecycle_recipes.curation import personal_data
from lifecycle_recipes.curation.personal_data import KINDS, PersonalData, find, mask

# In these tables «...» is what has to be found. Keys are written by their form, so that no scanner of secrets takes
# them for real ones: {a36} is 36 letters and digits, {h32} hexadecimal digits, {u16} capitals and digits, {d9} digits.
EMAIL = r"""
Write to «anna.berger@example.com».
Mail «bob@example.org», «carol@example.net» or the office.
Contact: Dana Fox <«dana.fox@mail.example.co.uk»>
mailto:«eve+newsletter@example.com»?subject=hello
<a href="mailto:«frank_99@sub.domain.example.com»">Frank</a>
Umlauts are allowed: «jörg@müller-söhne.de» is one.
Ihre E-Mail an «info@bücher.example» wurde gesendet.
ASCII form of such a domain: «post@xn--bcher-kva.example».
{"email": "«grace.hopper@navy.mil»", "age": 37}
"«h.ito@example.jp»","Tokyo",3
user_email='«ivan@example.ru»'
print(u'«julia@example.fr»')
send_mail(to="«k.lee@example.kr»", cc="«l.wong@example.hk»")
Author: Mia Chen <«mia.chen@users.noreply.github.com»>
Signed-off-by: Nils Olsen <«nils@kernel.example.no»>
(«olga@example.pl»)
Reply to «PAUL@EXAMPLE.COM» today
Our address is «q@x.io».
«rosa.o'neill@example.ie» has left the team
See http://lists.example.com/?from=«sam@example.com»&page=2
Log: login ok for «tina%backup@example.com» after 2 tries
2024-03-01 12:00:01 INFO smtp: to=<«uwe@example.de»>, relay=local, status=sent
| Vera | «vera@example.at» | Vienna |
*«will@example.com»* and _«xena@example.com»_ and `«yves@example.be»`
联系人«zhang.wei@example.cn»,谢谢
お問い合わせは«support@example.co.jp»まで
Пишите на «ольга@пример.рф» или звоните
Please ask «a.b.c.d@e.f.example.com»; thanks
«123456@qq.com» is a usual address in China, as is «lihua@163.com».
Send it to «alice@example.com».Then wait.
Maintainer: Debian Team <«team+python@tracker.debian.org»>
cc:«first.last@uni-example.edu»;«second@dept.uni-example.edu»
"«"john doe"@example.com»" is a quoted one
email = «root@mail.example.info»
Obfuscated: «karl (at) example.com»
Obfuscated: «karl [at] example [dot] com»
Obfuscated: «karl at example dot com» please
Encoded: mailto:«karl%40example.com»
Encoded: «karl&#64;example.com»
xmpp:«lara@jabber.example.org»
Bounce for «max-bounces+5@lists.example.org»
von «n.müller@example.ch» an «o@example.li»
Ask «desk@example.museum» or «hello@startup.dev»
From «peter@example.com» Mon Jan  1 00:00:00 2024
line one\n«quentin@example.com»\nline three
git config user.email «rita@example.com»
%% reported by «s.t@example.com» %%

"""
PHONE = r"""
Call me at «+1 202 555 0142».
Phone: «(415) 555-2671»
Tel. «415-555-0132», ask for Ann
My number is «415.555.2671».
Reach us on «1-800-555-0199» at any time
Toll free «1 (888) 555-0123»
«+1 (212) 555-0187» is New York
«+1-650-253-0000»
«+16502530000» works without spaces
London: «+44 20 7946 0958»
London: «+44 (0)20 7946 0958»
Mobile «+44 7700 900123»
Berlin «+49 30 901820»
Handy: «+49 151 12345678»
Paris «+33 1 42 68 53 00»
Mobile: «+33 6 12 34 56 78»
Madrid «+34 912 345 678»
Roma «+39 06 6982 1234»
Tokyo «+81 3-3224-5000»
Mumbai «+91 98765 43210»
Sydney «+61 2 9374 4000»
Beijing «+86 10 6552 9988»
São Paulo «+55 11 91234-5678»
Moscow «+7 495 123-45-67»
Zürich: «+41 44 668 18 00»
Wien «+43 1 211140»
Warsaw «+48 22 123 45 67»
From abroad dial «0049 30 901820»
From the US dial «011 44 20 7946 0958»
Office «(202) 555-0119 ext. 42»
Office «202-555-0119 x42»
Fax «202-555-0120, ext 9»
tel:«+1-201-555-0123»
<a href="tel:«+12015550123»">ring</a>
{"phone": "«2025550143»"}
{"name": "Al", "mobile": "«(202) 555-0144»"}
phone=«202-555-0145»
☎ «202 555 0146»
Cell: «202 555 0147»
Text «202-555-0148» or call «202-555-0149»
«555-0123» is a number of the films
Call «555-0199» now
Phone: «867-5309»
Jenny's phone number is «867-5309».
(Phone «650.253.0001»)
| Al | «212-555-0100» | NY |
Al,«212-555-0101»,NY
Contact: Bo, «(312) 555-0175», Chicago
WhatsApp «+52 55 1234 5678»
Lagos «+234 803 123 4567»
Stockholm «+46 8 508 281 00»
Amsterdam «+31 20 555 1111»
Telefon: «030 901820»
Téléphone : «01 42 68 53 00»
Tel: «020 7946 0958»
Whatsapp me: «07700 900123»
Fax: «040/123456»
T: «+44 1632 960001»
Nummer «+49 (0)89 1234567»
call: «+49-89-1234567»
(«+1 303 499 7111»)
numbers: «+1 303 499 7111», «+1 808 335 4363»
He dialled «1-303-499-7111» twice
Ring «303 499 7111» and wait
After hours: «303-499-7111».
«+1 555 555 0100»
電話 «03-3224-5000»
Тел.: «8 (495) 123-45-67»
SMS an «+43 664 1234567»
ph. «(03) 9123 4567»
Emergency desk «+27 21 406 5911»
"""
IP = r"""
It connects from «203.0.113.5».
ping «8.8.8.8»
nameserver «1.1.1.1»
«198.51.100.23» - - [10/Oct/2024:13:55:36 +0000] "GET / HTTP/1.1" 200 2326
http://«192.0.2.44»:8080/index.html
ssh root@«93.184.216.34»
visited from «5.9.12.33»
Failed password for root from «185.220.101.4» port 22
client_ip=«151.101.1.69»
{"ip": "«104.16.132.229»"}
X-Forwarded-For: «203.0.113.195», 10.0.0.1, «198.51.100.178»
Host «52.95.110.1» is up
server «17.5.7.8» answers
inet «172.217.16.206»/24 scope global
curl «140.82.121.4»
(«140.82.121.3»)
range «198.51.100.10»-«198.51.100.20»
DNS «9.9.9.9»:53 udp
peer=«203.0.113.77»:51820
remote: "«199.232.68.133»"
allow «203.0.113.9»;
| web1 | «203.0.113.31» | up |
«2001:db8::8a2e:370:7334» is IPv6
AAAA «2606:4700:4700::1111»
http://[«2001:db8:85a3::8a2e:370:7334»]:443/
«2001:0db8:85a3:0000:0000:8a2e:0370:7334»
inet6 «2a00:1450:4001:829::200e»/64 scope global
from «2001:4860:4860::8888» port 1
peer «2620:fe::fe»
IPv6: «2A02:2E0:3FE:1001:302::», old
trace: «2001:db8:0:1::1»: 3 ms
Die Adresse «203.0.113.200» wurde gesperrt
访问来自«203.0.113.201»的请求
"""
IBAN = r"""
IBAN «DE89 3704 0044 0532 0130 00»
IBAN: «DE89370400440532013000»
«GB29 NWBK 6016 1331 9268 19» is British
pay to «GB29NWBK60161331926819».
«FR14 2004 1010 0505 0001 3M02 606»
«ES91 2100 0418 4502 0005 1332»
«NL91ABNA0417164300»
«CH93 0076 2011 6238 5295 7»
«AT61 1904 3002 3457 3201» BIC BKAUATWW
«BE68 5390 0754 7034»
«IT60 X054 2811 1010 0000 0123 456»
«PL61 1090 1014 0000 0712 1981 2874»
«SE45 5000 0000 0583 9825 7466»
«NO93 8601 1117 947»
«DK50 0040 0440 1162 43»
{"iban": "«PT50000201231234567890154»"}
konto;«FI2112345600000785»;ok
«IE29-AIBK-9311-5212-3456-78»
iban de: «de89370400440532013000»
Überweisung an «LU28 0019 4006 4475 0000» bitte
"""
CARD = r"""
My card is «4111111111111111».
Visa «4111 1111 1111 1111»
card «4012-8888-8888-1881» exp 12/25
«5555 5555 5555 4444», 12/27, 123
Mastercard «5105105105105100»
«2223 0031 2200 3222»
Amex «378282246310005»
Amex «3714 496353 98431»
Discover «6011 1111 1111 1117»
«6011000990139424»
Diners «30569309025904»
Diners «3852 000002 3237»
JCB «3530111333300000»
JCB «3566-0020-2036-0505»
{"number": "«4242424242424242»", "cvc": "314"}
card_number=«4000056655665556»
Paid with «4222222222222».
| Ann | «4917 6100 0000 0000» | 01/30 |
UnionPay «6200 0000 0000 0005»
Карта «2200 0000 0000 0004»
card no. «4000 0025 0000 3155» was declined
"""
KEY = r"""
aws_access_key_id = «AKIA{u16}»
temporary: «ASIA{u16}»
The token is «ghp_{a36}».
GITHUB_TOKEN=«ghs_{a36}»
«github_pat_{a22}_{a59}»
glab auth login --token «glpat-{a20}»
SLACK=«xoxb-{d12}-{d12}-{a24}»
«xoxp-{d11}-{d11}-{d12}-{h32}»
curl «https://hooks.slack.com/services/T{u8}/B{u8}/{a24}»
stripe.api_key = "«sk_live_{a24}»"
STRIPE «rk_test_{a24}»
maps?key=«AIza{a35}»&q=Berlin
OAuth «ya29.{a40}»
openai: «sk-{a20}T3BlbkFJ{a20}»
OPENAI_API_KEY=«sk-proj-{a48}»
x-api-key: «sk-ant-api03-{a40}-{a20}»
login(token="«hf_{a34}»")
//registry.npmjs.org/:_authToken=«npm_{a36}»
password = «pypi-AgEIcHlwaS5vcmc{a70}»
cookie: session=«eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.{a43}»
SENDGRID «SG.{a22}.{a43}»
«dop_v1_{h64}»
«shpat_{h32}»
databricks «dapi{h32}»
bot «{d9}:AA{a33}»
VAULT_TOKEN=«hvs.{a24}»
mailgun «key-{h32}»
Authorization: Bearer «{a32}»
-H 'Authorization: token «{h40}»'
authorization: Basic «YWxhZGRpbjpvcGVuc2VzYW1l»
password=«hunter2»
password: «Tr0ub4dor&3»
PASSWORD="«correct-horse!9»"
{"password": "«s3cr3t-pa55»"}
db_password = '«Xk9#mPq2»'
My password is «Summer2024!», please reset it
mysql -u root --password=«q1w2e3r4»
postgres://app:«s3cretPw»@db.internal.example/app
mongodb+srv://user:«p455word»@cluster0.example.net/test
https://oauth2:«{a20}»@gitlab.example.com/x.git
api_key: "«{a32}»"
client_secret=«{a40}»
aws_secret_access_key = «{a40}»
export SECRET_KEY="«{a50}»"
access_token=«{a40}»&expires=3600
DefaultEndpointsProtocol=https;AccountName=x;AccountKey=«{a86}==»;EndpointSuffix=core
«-----BEGIN RSA PRIVATE KEY-----
{a64}
{a64}
{a40}==
-----END RSA PRIVATE KEY-----»
key: "«-----BEGIN PRIVATE KEY-----\n{a64}\n{a64}\n-----END PRIVATE KEY-----»\n"
«-----BEGIN OPENSSH PRIVATE KEY-----
{a64}
{a64}
-----END OPENSSH PRIVATE KEY-----»
"""
# What resembles personal data and is none, one a line. They are looked at line by line and all in one text.
FALSE_FRIENDS = r"""
51 Franklin Street, Fifth Floor, Boston, MA 02110-1301, USA
Boston, MA 02111-1307
as in DFARS 252.227-7013 and elsewhere
Upgrade to version 1.2.3.4 today.
v1.2.3.4 is out
Release 10.15.7.2 fixes it
- 2.0.0.1: fix a crash
- 4.11.0.3
Chrome/120.0.0.0 Safari/537.36
Version=4.0.0.0, Culture=neutral
section 4.2.1.1 of the manual
See RFC 5280, section 4.2.1.12.
1.2.3.4 Introduction
libfoo-1.2.3.4.tar.gz
libfoo_8.30.2.40-1ubuntu2_amd64.deb
upgraded from 45.33.32.10 to 45.33.32.11 of the driver
pip install foo==58.12.40.7
OID 1.3.6.1.4.1.311
1.3.6.1
2.5.29.17
listen on 127.0.0.1:8080
gateway 192.168.1.1
10.0.0.5 and 172.16.4.9 are private
netmask 255.255.255.0
broadcast 255.255.255.255
bind 0.0.0.0
link-local 169.254.1.1
multicast 224.0.0.251
100.64.0.7 is carrier grade NAT
router ::1 and fe80::1
fd12:3456:789a::1 is local
ff02::1 is multicast
std::vector<int>::iterator
a::b and Foo::Bar::baz
x[2000::3] and y[::2]
12:34:56 and 2024-01-15T12:34:56.789Z
00:1A:2B:3C:4D:5E is a MAC
02:00:5e:10:00:00:00:01 is an EUI-64
999.999.999.999 is no address
256.100.50.25
The price is $1,234.56 or 1.234,56 EUR.
$415.555.2671
costs 415 555 dollars
Price: 12 345 678 kr
population 331 893 745
1.234.567.890 people
Port 8080, 5432 and 27017
2024-01-15 10:30:00
15.01.2024 and 01/15/2024
20240115 103000
2023-12-31 2024-01-01
1990-1995 and 2010-2015
from 2019/05/01 to 2020/05/01
ISBN 978-0-306-40615-7
ISBN 0-306-40615-2
ISBN-13: 9780306406157
978-3-16-148410-0
ISSN 2049-3630
ISSN: 0378-5955
doi:10.1000/182
https://doi.org/10.1038/s41586-020-2649-2
10.1109/5.771073
arXiv:2406.17557
PMID 12345678
Order 4155552671 has shipped
order #415-555-2671
Ticket 2025550143
Invoice 202-555-0143 is due
invoice no. 2024-000123-4567
Case number 303-499-7111
tracking number 1Z999AA10123456784
Part 555-0123-A
P/N 867-5309
SKU 415-555-2671
model 555-1234
serial 202 555 0143
Amazon 113-5551234-1234567
SSN 078-05-1120
EIN 12-3456789
ZIP 94105-1234
550e8400-e29b-41d4-a716-446655440000
123e4567-e89b-12d3-a456-426614174000
commit 9fceb02d0ae598e95dc970b74767f19372d61af8
index 1234567..89abcde 100644
sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
d41d8cd98f00b204e9800998ecf8427e
40.7128, -74.0060
lat=52.520008 lon=13.404954
48.8566 2.3522
48°51'24.0"N 2°21'08.0"E
request id 1699999999999123
id=4111111111111111
trace_id 4539578763621486
order 4012888888881881
"order_id": 4242424242424242
IMEI 490154203237518
timestamp 1700000000000
1700000000.123456
4111111111111112 fails the check
1234 5678 9012 3456
2300 2400 2500 2600 2700 2800
4000 4100 4200 4300 4400
0000 0000 0000 0000
3.14159265358979323846
3.14159 26535 89793 23846
2.718281828459045
1.4142135623 7309504880
6.02214076e23 and 1.602176634e-19
user@host:~$ ls
deploy@web1.example.com:~$ ls -l
root@db1.example.com:/etc# cat hosts
[root@node7.example.com ~]# reboot
git@github.com:org/repo.git
git clone git@gitlab.example.com:a/b.git
ssh deploy@web1.example.com
scp -P 22 deploy@web1.example.com:/tmp/x .
rsync -av me@backup.example.org:data/ .
ssh -i key.pem ubuntu@ec2.example.com
https://user@bitbucket.org/team/repo.git
git+ssh://git@github.com/org/repo.git
ftp://anonymous@ftp.example.com/pub
@property
@app.route("/x")
@dataclass(frozen=True)
react@18.2.0
lodash@4.17.21
npm i @types/node@20.1.0
uses: actions/checkout@v4
docker pull nginx@sha256
icon@2x.png
a@b
x@y.T
q@k.transpose(1, 2)
w@self.weight.to(device)
self.a@self.b.T
C = A@B.T
@user mentioned @other_user
follow us @example
foo@localhost
Message-ID: <20240101120000.12345@mail.example.com>
https://lore.example.org/git/7vbpt8l1uy2v.fsf@gitster.example.org/
"ClientToken": "28908518-100b-4987-8233-8c7441234567"
"NextToken": "eyJOZXh0VG9rZW4iOiBudWxsLCAiYm90b190c"
"AWS::IAM::AccessKey": "62d91b17309e76c8"
cvs -d :pserver:anoncvs@cvs.example.com:/cvs
clause 252.227-7013 of DFARS
as defined in 252.227-7014 (June 1995)
U+0069 0307 0303
0069 0307 0303
c0 1.52-.87 2.83-2.12 3.51.98.32 2.03.5 3.11.5
upgrade V8 to 4.6.85.25
from 5.4.0.1 to 5.4.0.2
price 555-1000 range
6D95 5243 5282 5281 5290 5293 5182
First pass: decided_mask==0
the password was changed!
git fetch http://user:pass@host/repo
sortlist 130.155.160.0/255.255.240.0
meet @ 5 p.m.
look at example.com
1 @ 2.50 each
DE89 3704 0044 0532 0130 01
GB00 NWBK 6016 1331 9268 19
XX12 3456 7890 1234 5678
AB12CD34EF56GH78
IT is 2024 and the year of
DE12 is a zone
password=None
password = getpass()
password=os.environ["PW"]
password: str
password = "your_password"
password=<password>
password: ********
password=${DB_PASSWORD}
passwords must have 8 characters
password: at least 8 characters
"password": "string"
token = tokenizer.decode(ids)
token: Optional[str] = None
pad_token="<pad>"
max_tokens=1024
token=eos_token_id
secret: true
api_key = "YOUR_API_KEY"
api_key=os.getenv("OPENAI_API_KEY")
key = "value-of-something-long"
secret_name: my-app-database-secret
Authorization: Bearer <token>
Authorization: Bearer $TOKEN
Authorization: Bearer YOUR_ACCESS_TOKEN
the bearer of bad news
basic understanding
sk-estimator-doc-link-container
task-management-system-with-many-words
hf_hub_download(repo_id)
ghp_xxxxxxxxxxxx
-----BEGIN PRIVATE KEY-----
-----BEGIN PUBLIC KEY-----
AKIA is a prefix
pk_test_TYooMQauvdEDq54NiTphI7jx
+1 point
+10 000 000 users
+0530
1e+1234567
+++ b/file.py 2024
@@ -1234,567 +1234,890 @@
-1234567+7654321
phone 13 costs $799
iPhone 15 Pro 256
telephone exchange 1902
1-2-3 1-2-3-4
100-200-3000
192-168-1-1
2024.06.15.1
8/8/2024 10/10/2024
120/80 130/85
0x7fff5fbff8c0
0000010 0123 4567 89ab
300 dpi 1920x1080
CVE-2024-1234567
RFC 2822 3339 8259
error 0x80070005 2147942405
3,141,592,653
log 20240115103000123456
1234567890
9876543210
2125551234
"""


def fill(text: str) -> str:
    """The text with random characters for the forms such as {a36}; the same at each call."""
    alphabets = {
        "a": string.ascii_letters + string.digits,
        "h": "0123456789abcdef",
        "u": string.ascii_uppercase + "234567",
        "d": string.digits,
    }
    rng = random.Random(text)

    def some(match: re.Match) -> str:
        chosen = rng.choices(alphabets[match[1]], k=int(match[2]))
        if match[1] == "a" and len(chosen) > 4:  # as in every real one of this length
            chosen[1:4] = rng.choice(string.digits), "x", rng.choice(string.digits)
        return "".join(chosen)

    return re.sub(r"\{([ahud])([0-9]+)\}", some, text)


def cases(kind: str, table: str) -> list[tuple[str, str, list[tuple[int, int]]]]:
    """(kind, text, spans) of each line of a table; what is between the marks may contain line breaks."""
    found = []
    for marked in re.findall(r"(?:[^\n«]|«[^»]*»)+", fill(table)):
        text, spans = "", []
        for i, part in enumerate(re.split("[«»]", marked)):
            if i % 2:
                spans.append((len(text), len(text) + len(part)))
            text += part
        found.append((kind, text, spans))
    return found


TABLES = {"email": EMAIL, "phone": PHONE, "ip": IP, "iban": IBAN, "card": CARD, "key": KEY}
POSITIVES = [case for kind, table in TABLES.items() for case in cases(kind, table)]
FRIENDS = [line for line in FALSE_FRIENDS.splitlines() if line]


@pytest.mark.parametrize("kind", KINDS)
def test_every_notation_is_found_exactly(kind):
    missed = [
        (text, find(text))
        for of, text, spans in POSITIVES
        if of == kind and find(text) != [(*s, kind) for s in spans]
    ]
    assert missed == []


def test_the_tables_are_large_enough():
    assert sum(len(spans) for _, _, spans in POSITIVES) >= 150 and len(FRIENDS) >= 150


@pytest.mark.parametrize("text", FRIENDS)
def test_false_friends_are_left_alone(text):
    assert find(text) == []


def test_false_friends_beside_each_other_and_in_a_long_text():
    assert find("\n".join(FRIENDS)) == []


@pytest.mark.parametrize(
    "around", ["前{}后", "é {} é", "\U0001f600{}\U0001f600", "<b>{}</b>", '"{}"', "\t{}\r\n", "{}", "{}."]
)
def test_positions_are_right_whatever_stands_around(around):
    for kind, value in [
        ("email", "ann@example.com"),
        ("phone", "+49 30 901820"),
        ("ip", "203.0.113.5"),
        ("ip", "2001:db8::8a2e:370:7334"),
        ("iban", "DE89370400440532013000"),
        ("card", "4111 1111 1111 1111"),
        ("key", fill("ghp_{a36}")),
    ]:
        text = around.format(value)
        start = text.index(value)
        assert find(text) == [(start, start + len(value), kind)], text


def test_every_number_of_the_library_is_found_in_its_international_form():
    import phonenumbers

    for region in sorted(phonenumbers.SUPPORTED_REGIONS):
        number = phonenumbers.example_number(region)
        for form in (phonenumbers.PhoneNumberFormat.INTERNATIONAL, phonenumbers.PhoneNumberFormat.E164):
            shown = phonenumbers.format_number(number, form)
            assert find(f"Please use {shown} then.") == [(11, 11 + len(shown), "phone")], region


@pytest.mark.parametrize(
    ("region", "text"),
    [
        ("DE", "Rückruf unter 030 901820 bitte"),
        ("GB", "on 020 7946 0958 today"),
        ("GB", "on 07700 900123 today"),
        ("FR", "au 01 42 68 53 00 demain"),
        ("FR", "au 06.12.34.56.78 demain"),
        ("ES", "al 912 34 56 78 hoy"),
        ("IT", "allo 02 1234 5678 oggi"),
        ("JP", "は03-3224-5000です"),
        ("IN", "on 098765 43210 now"),
        ("AU", "on (02) 9374 4000 now"),
    ],
)
def test_national_forms_count_in_their_regions_alone(region, text):
    assert [kind for *_, kind in find(text, regions=[region])] == ["phone"]
    assert find(text) == []


def test_nothing_remains_in_the_masked_text():
    everything = "\n".join(text for _, text, _ in POSITIVES)
    masked = mask(everything, find(everything))
    assert find(masked) == []
    for _, text, spans in POSITIVES:
        assert not [text[a:b] for a, b in spans if len(text[a:b]) > 9 and text[a:b] in masked]


def verdicts(texts, **settings):
    wanted = PersonalData(**settings)
    return run(personal_data, wanted, shards_of(texts, personal_data, wanted, size=2))


TEXTS = ["nothing", "ann@example.com and 203.0.113.5", fill("ghp_{a36}"), "bob@example.com, cy@example.com"]


def test_masked_by_default():
    found = verdicts(TEXTS)
    assert sorted(found) == [1, 2, 3]
    assert [(e.start, e.end, e.text, e.kind) for e in found[1].edits] == [
        (0, 15, "<EMAIL>", "email"),
        (20, 31, "<IP>", "ip"),
    ]
    assert found[1].reasons == () and found[1].detail == {"found": {"email": 1, "ip": 1}}


def test_dropped_with_a_reason_for_each_kind():
    found = verdicts(TEXTS, action="drop")
    assert found[1].reasons == ("personal-data-email", "personal-data-ip") and not found[1].edits


def test_single_kinds_have_their_own_action():
    found = verdicts(TEXTS, actions={"key": "drop"})
    assert found[2].reasons == ("personal-data-key",) and found[1].reasons == ()


def test_lists_of_people_are_left_out():
    found = verdicts(TEXTS, max_found=1, kinds=["email"])
    assert sorted(found) == [1, 3]
    assert found[3].reasons == ("personal-data-list",) and found[1].edits


def test_the_audit_has_no_values():
    for found in (verdicts(TEXTS), verdicts(TEXTS, action="drop"), verdicts(TEXTS, max_found=0)):
        assert not re.search("ann|bob|203|ghp", repr(found))


def test_a_threshold_does_not_change_the_scores():
    plain, strict = PersonalData(), PersonalData(action="drop", max_found=1, actions={"ip": "mask"})
    assert personal_data.score(TEXTS, plain) == personal_data.score(TEXTS, strict)
    changed = {f.name for f in dataclasses.fields(plain) if getattr(plain, f.name) != getattr(strict, f.name)}
    assert not changed & set(personal_data.SCORED)


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({"kinds": ["emial"]}, "did you mean email?"),
        ({"kinds": ["E-Mail"]}, "did you mean email?"),
        ({"actions": {"token": "drop"}}, "did you mean key?"),
        ({"actions": {"key": "dorp"}}, "did you mean drop?"),
        ({"phone_regions": ["UK"]}, "did you mean GB?"),
        ({"phone_regions": ["de"]}, "did you mean DE?"),
        ({"phone_regions": ["Germany"]}, "ISO 3166"),
    ],
)
def test_unknown_choices_are_refused(settings, hint):
    (finding,) = personal_data.find_in_settings(PersonalData(**settings), "recipe.yaml:7")
    assert finding.code == "wrong-choice" and finding.where == "recipe.yaml:7" and hint in finding.fix


def test_sound_settings_have_no_finding():
    assert personal_data.find_in_settings(PersonalData(phone_regions=["US", "GB", "DE"]), "") == []

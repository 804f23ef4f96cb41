"""Short passages of several kinds of text, on which the tokenizer's compression is measured.

    {**PASSAGES, "code": code_passage()}

Written for this project, so that the figures of two tokenizers can be compared anywhere.
"""

import inspect
import textwrap

NEWS = """\
The city council voted on Tuesday evening to keep the old tram line running for at least ten more
years, ending a dispute that had divided the eastern districts since the spring. Eleven members
supported the plan, six opposed it and two abstained. Under the agreement, the transport authority
will replace 14 ageing carriages, repair the bridge over the canal and extend evening services
until half past midnight from next September.

"We could have had buses by the end of the year, and they would have cost less," said Marta
Lindqvist, who led the opposition. "But people here told us, in every meeting we held, that they
wanted something they could rely on." The mayor called the decision a victory for patience. Work
is expected to cost about $38.5 million, of which the state has promised to pay a third; the rest
will come from parking fees and a small increase in the price of a monthly ticket.

Shopkeepers along the route were relieved, although some fear the noise of the repairs. "It will
be a long summer," said the owner of a bakery near the terminus, who has watched the trams go by
for twenty-six years. "Then again, I have complained about them every morning since 1999, and I
would not know what to do without them."
"""

KOREAN = """\
지난 주말, 바닷가의 작은 마을에서 오래된 등대를 다시 여는 행사가 열렸다. 이 등대는
1936년에 세워져 칠십 년 넘게 밤바다를 비추다가, 새 항로가 생긴 뒤로 문을
닫았다. 마을 사람들은 십 년 동안 돈을 모아 계단을 고치고 유리창을 새로 끼웠으며,
이제 그 안에는 어부들의 이야기를 모은 작은 도서관이 들어섰다.

"어릴 때 아버지의 배가 늦게 들어오는 날이면 저 불빛만 바라보았습니다." 도서관을
돌보는 김 씨가 말했다. 그는 아이들에게 별자리를 가르치고, 비가 오는 날에는 따뜻한
차를 내놓는다. 첫날에만 삼백 명이 넘는 손님이 다녀갔고, 멀리 부산에서 온 대학생들은
계단의 수를 하나하나 세어 보았다. 모두 백스물네 개였다.

해가 지자 등대에 다시 불이 들어왔다. 예전처럼 배를 부르는 빛은 아니지만, 사람을
부르는 빛이라고 마을 이장은 웃으며 말했다. 다음 달부터는 매주 토요일 저녁에 음악회도
열린다.
"""

MATHS = r"""
\begin{theorem}[Contraction mapping]
Let $(X, d)$ be a non-empty complete metric space and let $T \colon X \to X$ satisfy
\[
    d(Tx, Ty) \le q \, d(x, y) \qquad \text{for all } x, y \in X,
\]
with a constant $0 \le q < 1$. Then $T$ has exactly one fixed point $x^{*}$, and for every
$x_0 \in X$ the sequence $x_{n+1} = T x_n$ converges to it, with
\begin{equation}\label{eq:rate}
    d(x_n, x^{*}) \le \frac{q^{n}}{1 - q} \, d(x_0, x_1).
\end{equation}
\end{theorem}

\begin{proof}
By induction $d(x_{n}, x_{n+1}) \le q^{n} d(x_0, x_1)$. Hence, for $m > n$,
\begin{align*}
    d(x_n, x_m) &\le \sum_{k=n}^{m-1} d(x_k, x_{k+1})
                 \le d(x_0, x_1) \sum_{k=n}^{\infty} q^{k}
                 = \frac{q^{n}}{1-q} \, d(x_0, x_1),
\end{align*}
so that $(x_n)$ is a Cauchy sequence. Let $x^{*} = \lim_{n \to \infty} x_n$. Since $T$ is
continuous, $T x^{*} = \lim T x_n = \lim x_{n+1} = x^{*}$. If $Ty = y$ as well, then
$d(x^{*}, y) = d(T x^{*}, T y) \le q \, d(x^{*}, y)$, which forces $d(x^{*}, y) = 0$. Letting
$m \to \infty$ above gives \eqref{eq:rate}. \qedhere
\end{proof}

For example, $f(x) = \cos x$ maps $[0, 1]$ into itself with $|f'(x)| \le \sin 1 \approx 0.8415$, and
iterating it from $x_0 = 0.5$ approaches $x^{*} \approx 0.739085$.
"""

SCIENCE = """\
Nitrogen makes up 78 % of the atmosphere, and yet most organisms starve for it. The two atoms of
N2 are held together by a triple bond of 945 kJ/mol, so that only lightning, industry and a few
groups of bacteria can break them apart. The enzyme responsible in bacteria, nitrogenase, carries
a cofactor of seven iron atoms, nine sulfur atoms, one molybdenum atom and, at its centre, a
single carbon. It spends at least 16 molecules of ATP on each molecule of nitrogen that it
reduces:

    N2 + 8 H+ + 8 e- + 16 ATP -> 2 NH3 + H2 + 16 ADP + 16 Pi

Because oxygen destroys the enzyme within minutes, the organisms that use it have found very
different shelters. Rhizobia live in the root nodules of legumes, where leghaemoglobin keeps the
concentration of free oxygen near 10 nanomolar. Filamentous cyanobacteria set aside every tenth
cell or so as a heterocyst with a thick glycolipid wall and no photosystem II. Azotobacter simply
respires faster than any other known aerobe. The Haber-Bosch process, by comparison, needs no
shelter from oxygen, but runs at 400 to 500 degrees Celsius and 150 to 250 bar over an iron
catalyst, and consumes between 1 and 2 % of the world's energy supply.
"""

PASSAGES = {"news": NEWS, "korean": KOREAN, "maths": MATHS, "science": SCIENCE}


def code_passage() -> str:
    """Source code that every Python carries: a module of the standard library."""
    return inspect.getsource(textwrap)

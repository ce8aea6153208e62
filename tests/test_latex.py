"""Text and numbers as LaTeX prints them; a source that TeX refuses is one line."""

import shutil

import jinja2
import pypdf
import pytest

from diagfim import latex
from diagfim.errors import UserError


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, r"\(0\)"),
        (0.5, r"\(0.50\)"),
        (12.34, r"\(12.3\)"),
        (-9999, r"\(-9999.0\)"),
        (10_000, r"\(1.0\times 10^{4}\)"),
        (0.0099, r"\(9.9\times 10^{-3}\)"),
        (-4.53e-5, r"\(-4.5\times 10^{-5}\)"),
        (float("nan"), "--"),
    ],
)
def test_scientific(value, expected):
    assert latex.scientific(value) == expected


def test_whole_numbers_and_shares():
    assert latex.grouped(1234567) == r"1\,234\,567"
    assert latex.percent(0.9753, 2) == r"97.53\,\%"


def test_escaping_leaves_nothing_that_tex_would_obey():
    assert latex.escape(r"\input{a}") == r"\textbackslash{}input\{a\}"
    assert latex.escape("50 % of $x_1 & #2^~") == (
        r"50 \% of \$x\_1 \& \#2\textasciicircum{}\textasciitilde{}"
    )
    assert latex.escape(latex.Tex(r"\(x\)")) == r"\(x\)"


def test_a_template_prints_its_values_and_refuses_missing_ones(tmp_path):
    template = tmp_path / "t.tex.j2"
    template.write_text(
        "<< name >>: << value|sci >>\n<% for n in list %><< n|count >>;<% endfor %>"
    )
    latex.render(template, tmp_path / "t.tex", name="a_b", value=0.5, list=[1, 20000])
    assert (tmp_path / "t.tex").read_text() == "a\\_b: \\(0.50\\)\n1;20\\,000;"
    with pytest.raises(jinja2.UndefinedError):
        latex.render(template, tmp_path / "t.tex", name="a", value=1)


def write_source(folder, body):
    source = folder / "paper.tex"
    source.write_text(rf"\documentclass{{article}}\begin{{document}}{body}\end{{document}}")
    return source


def test_a_source_is_typeset(tmp_path):
    target = tmp_path / "out.pdf"
    latex.typeset(write_source(tmp_path, "Seventeen sheep."), target, [])
    assert "Seventeen sheep." in pypdf.PdfReader(target).pages[0].extract_text()


def test_what_tex_refuses_is_one_line_and_leaves_no_pdf(tmp_path):
    target = tmp_path / "out.pdf"
    with pytest.raises(UserError, match=r"LaTeX stopped \(! Undefined control sequence") as caught:
        latex.typeset(write_source(tmp_path, r"\nosuchcommand"), target, [])
    assert "\n" not in str(caught.value)
    assert not target.exists()


def test_missing_tex_is_named_with_its_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="apt-get install latexmk"):
        latex.tex_version()

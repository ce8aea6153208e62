"""The page on which the results are looked at: one file, no server, no network.

`contents` turns results into plain values, `charts` says how they are drawn, `page` puts both into
a file, with Vega in it; what moves on the page is in page.js.
"""

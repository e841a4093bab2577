"""The page that `dfc report` writes: a run, a comparison or a sweep as one HTML file without network.

page.py         what a folder holds, and its page, rendered with jinja2 and plotly.js
page_parts.py   sections, tables and charts, as the template and the script of the page take them
run_page.py     the sections of a run;  group_page.py  those of a comparison or a sweep
minibatches.py  logged minibatches, for the sliders
page.html.jinja, page.css, page.js
"""

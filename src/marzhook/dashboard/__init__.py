"""The dashboard: pages for people, rendered here, that read well without JavaScript and follow along with it.

A page is a function from a `Visit` to a response (`visit.py`), found by its path in the `Pages` of its module. What is
said is in `words.py` and the templates, in English, and in `locale/*.po` in the other languages.
"""

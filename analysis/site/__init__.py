"""The report as pages: an index of all studies, a page a study, a page a run. Static files, or served live.

Pages link each other and two files beside them (`style.css`, `script.js`) and load nothing else, so a folder of them
works from `file://`. Every string that came from a study file, a config or a worker is escaped by the templates.
"""

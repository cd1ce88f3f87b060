"""Pages for people: the HTML report (``report/``) and the local explorer (``explorer/``), with the cards both show."""

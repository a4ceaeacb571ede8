"""Blind reading by people: pairs of replies on a page, the votes on them, what they say."""

"""Which version of a registered model leads: frozen test cases, a rule, and a book of every decision."""

"""Published protocols by which vectors of labelled crops are judged."""

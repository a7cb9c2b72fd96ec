"""Types, records, schemas, errors, configuration and small tools; imports no other room."""

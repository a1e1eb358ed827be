"""CO-RE programs and the record headers that both halves share: C only, see README.md here."""

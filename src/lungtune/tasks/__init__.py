"""What a family is trained and scored for."""

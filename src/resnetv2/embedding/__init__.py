"""Pictures as features: tables of them, and indexes in which similar pictures are found."""

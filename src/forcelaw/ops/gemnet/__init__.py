"""Operations of GemNet-OC."""

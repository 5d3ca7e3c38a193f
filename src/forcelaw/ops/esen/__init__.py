"""Operations of eSEN."""

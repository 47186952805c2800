"""Results that machines share: a store of objects beside the local one, with entries that are verified and signed."""

"""The store on disk: recipe, tables, arrays, ledger; in a folder or in a bucket."""

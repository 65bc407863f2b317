# Compares the pages in a directory with their checksums.
check() {
    (cd "$1" && sha256sum -c checksums)
}

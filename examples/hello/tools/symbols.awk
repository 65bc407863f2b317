# Stands for a compiler's debug data: 2,000 files, 60 MB, the same bytes every time.
#   awk -f symbols.awk -v into=DIRECTORY

BEGIN {
    x = 1
    for (unit = 0; unit < 2000; unit++) {
        name = sprintf("%s/unit-%04d.sym", into, unit)
        for (line = 0; line < 2880; line++) {
            x = (x * 16807) % 2147483647 # exact in a double, so any awk gives the same
            printf "%d\n", x > name
        }
        close(name)
    }
}

# Makes a page of plain text: blank lines part paragraphs.
#   awk -f page.awk -v title=TITLE TEXT

BEGIN {
    RS = ""
    printf "<!doctype html>\n<title>%s</title>\n<h1>%s</h1>\n", title, title
}

{
    gsub(/&/, "\\&amp;")
    gsub(/</, "\\&lt;")
    printf "<p>%s</p>\n", $0
}

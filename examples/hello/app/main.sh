case "${1:-}" in
greet) greet "${2:-}" ;;
check) check "$2" ;;
*)
    echo "usage: app greet [NAME] | app check DIRECTORY" >&2
    exit 2
    ;;
esac

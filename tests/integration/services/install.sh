#!/usr/bin/env bash
# Installs what tests/integration starts: Java and Apache Kafka, Prometheus, Alertmanager, Pushgateway, PostgreSQL.
#
# What is there is left alone; what is missing comes from Debian's packages (as root) and, for Kafka's jars, from
# Maven into ${XDG_CACHE_HOME:-~/.cache}/sentiment-monitor/kafka-VERSION. No daemon is left running or enabled.
# What cannot be had costs one line that begins with NOT TESTED, and never the build: the exit status is 0.
set -uo pipefail

here=$(cd "$(dirname "$0")" && pwd)
kafka_version=$(sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' "$here/pom.xml")
kafka_folder=${XDG_CACHE_HOME:-$HOME/.cache}/sentiment-monitor/kafka-$kafka_version
copy_plugin=org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies
export DEBIAN_FRONTEND=noninteractive

log=$(mktemp)
staging=""
policy=""
cleanup() { rm -rf "$log" ${staging:+"$staging"} ${policy:+"$policy"}; }
trap cleanup EXIT

not_tested() { # WHAT WHY HOW-TO-ENABLE
    printf 'NOT TESTED: %s: %s. To enable: %s, then run this again.\n' "$1" "$2" "$3" >&2
}

last_words() { grep -v '^[[:space:]]*$' "$log" | tail -n 1 | cut -c 1-200; }

have_java() {
    local major
    major=$(java -version 2>&1 | sed -n '1s/.*version "\([0-9]*\).*/\1/p')
    [ "${major:-0}" -ge 17 ]
}
have_kafka() { [ -f "$kafka_folder/kafka_2.13-$kafka_version.jar" ]; }
have_postgresql() {
    command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null
}
have_prometheus() { command -v prometheus >/dev/null && command -v promtool >/dev/null; }
have_pushgateway() { command -v prometheus-pushgateway >/dev/null; }
have_alertmanager() { command -v prometheus-alertmanager >/dev/null && command -v amtool >/dev/null; }

apt_ready=""
install_package() { # PACKAGE; says why not in $why
    if ! command -v apt-get >/dev/null; then
        why="there is no apt-get here"
        return 1
    fi
    if [ "$(id -u)" -ne 0 ]; then
        why="installing Debian packages needs root"
        return 1
    fi
    if [ -z "$apt_ready" ]; then
        apt-get update >"$log" 2>&1
        apt_ready=yes
        # The tests start their own servers on free ports: keep the packages from starting theirs.
        if [ ! -e /usr/sbin/policy-rc.d ]; then
            policy=/usr/sbin/policy-rc.d
            printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy"
        fi
    fi
    echo "services: installing $1"
    if ! apt-get install -y --no-install-recommends "$1" >"$log" 2>&1; then
        why="apt-get install $1 failed ($(last_words))"
        return 1
    fi
    if [ -d /run/systemd/system ]; then
        systemctl disable --now "$1" >/dev/null 2>&1
    fi
}

ensure() { # NAME PACKAGE
    local why
    "have_$1" && return 0
    install_package "$2" && "have_$1" && return 0
    not_tested "$3" "${why:-$2 is installed, but what the tests need of it is not on PATH}" "apt-get install $2"
    return 1
}

download_kafka() {
    local why
    if ! command -v mvn >/dev/null && ! { install_package maven && command -v mvn >/dev/null; }; then
        not_tested "Kafka" "its jars are not in $kafka_folder and ${why:-there is no mvn to fetch them}" \
            "apt-get install maven"
        return 1
    fi
    if ! mkdir -p "$(dirname "$kafka_folder")" 2>/dev/null || ! staging=$(mktemp -d "$kafka_folder.XXXXXX" 2>/dev/null)
    then
        staging=""
        not_tested "Kafka" "$kafka_folder cannot be written" "set XDG_CACHE_HOME to a folder that can"
        return 1
    fi
    echo "services: downloading Apache Kafka $kafka_version"
    local options=(-B -q -Dstyle.color=never -DincludeScope=runtime -DoutputDirectory="$staging")
    if ! mvn "${options[@]}" -f "$here/pom.xml" "$copy_plugin" >"$log" 2>&1; then
        not_tested "Kafka" "Maven could not fetch its jars ($(grep -m 1 ERROR "$log" | cut -c 1-200))" \
            "give Maven a network or a mirror in ~/.m2/settings.xml"
        return 1
    fi
    # Whole or not at all: a half-filled folder must never be taken for a broker.
    rm -rf "$kafka_folder" && mv "$staging" "$kafka_folder" && chmod 755 "$kafka_folder" && staging=""
}

ready=()
if ensure java default-jre-headless "Kafka"; then
    if have_kafka || download_kafka; then ready+=("Kafka $kafka_version"); fi
fi
if ensure prometheus prometheus "Prometheus"; then ready+=(Prometheus); fi
if ensure alertmanager prometheus-alertmanager "Alertmanager"; then ready+=(Alertmanager); fi
if ensure pushgateway prometheus-pushgateway "Pushgateway"; then ready+=(Pushgateway); fi
if ensure postgresql postgresql "PostgreSQL"; then ready+=(PostgreSQL); fi

printf 'services: ready for the tests:'
printf ' %s;' "${ready[@]:-none}"
printf '\n'
exit 0

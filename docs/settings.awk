# Puts the settings into the manual page:
#
#   olla --print-settings | awk -f docs/settings.awk -v page=docs/olla.ini.5
#
# Prints the page with everything between its two lines `.\" settings begin` and `.\" settings end` made anew from what it reads.

# A word at the start of a line must not be taken for a request.
function put(line) {
    if (line ~ /^[.']/) {
        line = "\\&" line
    }
    print line
}

function escape(text) {
    gsub(/\\/, "\\e", text)
    return text
}

# One line for each sentence, none longer than 78 bytes.
function say(text,    words, n, i, line) {
    n = split(escape(text), words, /[ \t]+/)
    line = ""
    for (i = 1; i <= n; i++) {
        if (words[i] == "") {
            continue
        }
        if (line != "" && length(line) + 1 + length(words[i]) > 76) {
            put(line)
            line = ""
        }
        line = line == "" ? words[i] : line " " words[i]
        if (words[i] ~ /[.!?]$/ && words[i] !~ /^[.]+$/) {
            put(line)
            line = ""
        }
    }
    if (line != "") {
        put(line)
    }
}

function full(text) {
    return text ~ /[.!?:]$/ ? text : text "."
}

function end_list() {
    if (in_list) {
        print ".El"
    }
    in_list = 0
}

function section(name) {
    end_list()
    print ".Ss [" name "]\\&"
    if (intro != "") {
        say(intro)
        intro = ""
    }
    print ".Bl -tag -width Ds"
    in_list = 1
}

function setting(key, value) {
    print ".It Ic " key (value == "" ? "" : " No = Li \"" escape(value) "\"")
    if (help != "") {
        say(full(help))
    }
    if (allowed != "") {
        say("Allowed: " full(allowed))
    }
    if (variable != "") {
        print "Environment:"
        print ".Ev " variable " ."
    }
    help = allowed = variable = ""
}

BEGIN {
    while ((got = (getline line < page)) > 0) {
        print line
        if (line == ".\\\" settings begin") {
            break
        }
    }
    if (got <= 0) {
        print "settings.awk: " page " has no line \".\\\" settings begin\"" > "/dev/stderr"
        failed = 1
        exit 1
    }
}

done { next }

# The sections at the end that are no comments are an example.
/^\[endpoint:/ {
    done = 1
    next
}

# A group of sections: what is said until the next section line is about it.
/^; ---- / {
    end_list()
    intro = help = ""
    in_intro = 1
    next
}

/^;?\[.*\]$/ {
    gsub(/^;|[\[\]]/, "")
    in_intro = 0
    started = 1
    section($0)
    next
}

/^; / && in_intro {
    intro = intro " " substr($0, 3)
    next
}

!started { next }

/^; Allowed: / {
    allowed = substr($0, 12)
    next
}

/^; Environment: / {
    variable = substr($0, 16)
    next
}

/^; / {
    help = help " " substr($0, 3)
    next
}

/^;?[A-Za-z_.]+ =/ {
    sub(/^;/, "")
    at = index($0, " =")
    setting(substr($0, 1, at - 1), substr($0, at + 3))
    next
}

END {
    if (failed) {
        exit 1
    }
    end_list()
    while ((getline line < page) > 0) {
        if (line == ".\\\" settings end") {
            found = 1
        }
        if (found) {
            print line
        }
    }
    if (!found || !started) {
        print "settings.awk: " (started ? page " has no line \".\\\" settings end\"" : "no settings were read") > "/dev/stderr"
        exit 1
    }
}

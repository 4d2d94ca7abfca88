# The AWS CLI, whose failures become one sentence. For tools/relay and tools/deploy, which set $command and $stack.
# shellcheck shell=bash

# The emulated AWS of "make up"; empty for an account.
endpoint=
# What already holds when something fails later on.
achieved=
# What whoever stops this should know.
stopped='nothing was changed'

stop() { # stop SENTENCE
  printf 'make %s: %s%s\n' "$command" "$achieved" "$1" >&2
  exit 1
}

interrupted() {
  trap - INT
  printf '\nmake %s: stopped%s.\n' "$command" "${stopped:+; $stopped}" >&2
  exit 130
}
trap interrupted INT

check_stack() { # refuses what is no stack's name, before the AWS CLI takes it for something else
  local LC_ALL=C
  [[ $stack =~ ^[A-Za-z][A-Za-z0-9-]*$ ]] || stop "STACK must be a stack's name: letters, digits and hyphens."
  # The pause parameter's name begins with the stack's.
  case $stack in [Aa][Ww][Ss]* | [Ss][Ss][Mm]*)
    stop 'STACK must not begin with aws or ssm: AWS refuses parameters whose names begin so.' ;;
  esac
}

prepare_aws() { # prepare_aws ROOT
  # Your own AWS CLI comes first; whoever ran "make tools" has another.
  PATH=$PATH:$1/.tools/venv/bin
  type -P aws >/dev/null || stop 'the AWS CLI is missing; "pip install awscli" brings it.'
  export AWS_PAGER=
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
}

call() { # call WHAT_FAILS COMMAND [OPTION…]: a command of the AWS CLI, whose failure ends all
  local fails=$1
  shift
  attempt "$@" || explain "$fails"
}

attempt() { # attempt COMMAND [OPTION…]: a command of the AWS CLI, which may fail
  local code=0
  aws ${endpoint:+--endpoint-url "$endpoint"} "$@" 2>"$folder/error" || code=$?
  # Ctrl-C, which is ours to answer.
  [ $code -ne 130 ] || exit 130
  return $code
}

explain() { # explain WHAT_FAILS: ends all with what the AWS CLI said last
  local fails=$1 said form=' operation( \([^)]*\))?: (.*[^ ])'
  said=$(tr '\n' ' ' <"$folder/error")
  case $said in
  *"Stack with id $stack does not exist"*) stop "there is no stack $stack in this AWS account and region." ;;
  *'Could not connect'* | *'Connection was closed'*)
    [ -z "$endpoint" ] || stop "$fails: what \"make up\" started has ended; start it again."
    stop "$fails: AWS is out of reach; is there a network, and is the region right?" ;;
  *'config profile'*) stop "$fails: your AWS CLI has no such profile as AWS_PROFILE names." ;;
  *'locate credentials'* | *ExpiredToken* | *'Token has expired'* | *'security token'* | *'SSO session'*)
    stop "$fails: AWS does not know you; log in first, for example with \"aws sso login\"." ;;
  *'specify a region'*) stop "$fails: no region is set; export AWS_DEFAULT_REGION=name." ;;
  *TooManyRequests* | *Throttl* | *'ate exceeded'* | *'ate Exceeded'*)
    stop "$fails: AWS is busy with too many requests; try again in a minute." ;;
  esac
  # "An error occurred (Code) when calling the Name operation (reached max retries: 4): Text"
  if [[ $said =~ $form ]]; then said=${BASH_REMATCH[2]}; fi
  stop "$fails: ${said:-the AWS CLI did not say why.}"
}

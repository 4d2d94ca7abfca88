//! What each command may do at AWS: the one place that has to change with a command's calls. The tests of
//! each command hold its calls against it.

/// Actions on resources.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grant {
    /// The statement's name.
    pub(super) sid: &'static str,
    pub(super) actions: &'static [&'static str],
    /// Patterns, in which names in braces stand for the stack's own resources.
    pub(super) on: &'static [&'static str],
    /// For keys: only through SSM, for these parameters.
    pub(super) through_ssm: &'static [&'static str],
    /// For roles: only to be passed to this service.
    pub(super) passed_to: &'static [&'static str],
}

/// The bucket of deliveries; what is granted on it is left out where they are posted.
pub(super) const BUCKET: &str = "arn:{partition}:s3:::{bucket}";

const fn grant(
    sid: &'static str,
    actions: &'static [&'static str],
    on: &'static [&'static str],
) -> Grant {
    Grant { sid, actions, on, through_ssm: &[], passed_to: &[] }
}

/// What a command needs.
#[derive(Debug)]
pub(super) struct Need {
    pub(super) command: &'static str,
    pub(super) grants: &'static [Grant],
}

const fn need(command: &'static str, grants: &'static [Grant]) -> Need {
    Need { command, grants }
}

// What several commands need.

const KEYS: &str = "{arn:ssm}:parameter{keys}";
const GLADLY_TOKEN: &str = "{arn:ssm}:parameter{gladly-token}";
const DESTINATION_TOKEN: &str = "{arn:ssm}:parameter{destination-token}";
const PAUSE: &[&str] = &["{arn:ssm}:parameter{pause}", "{arn:ssm}:parameter{pause}-*"];
const EXTRACTOR: &str = "{arn:lambda}:function:{extractor}";
const INGEST: &str = "{arn:lambda}:function:{ingest}";
const LOGS: &[&str] = &[
    "{arn:logs}:log-group:/aws/lambda/{stack}/ingest-fn:*",
    "{arn:logs}:log-group:/aws/lambda/{stack}/extractor-fn:*",
];
const EVERY: &[&str] = &["*"];

const LOOK_UP: Grant = grant(
    "LookUpStack",
    &["cloudformation:DescribeStacks"],
    &["{arn:cloudformation}:stack/{stack}/*"],
);
const LOOK_UP_EVERY: Grant = grant("LookUpStacks", &["cloudformation:DescribeStacks"], EVERY);
const TASK: Grant = grant("InvokeExtractor", &["lambda:InvokeFunction"], &[EXTRACTOR]);
const READ_LOGS: Grant = grant("ReadLogs", &["logs:FilterLogEvents"], LOGS);
const READ_METRICS: Grant = grant("ReadMetrics", &["cloudwatch:GetMetricData"], EVERY);
const READ_SECRETS: Grant =
    grant("ReadSecrets", &["ssm:GetParameter"], &[KEYS, GLADLY_TOKEN, DESTINATION_TOKEN]);
const READ_KEYS_AND_TOKEN: Grant =
    grant("ReadSecrets", &["ssm:GetParameter"], &[KEYS, GLADLY_TOKEN]);
const READ_TOKEN: Grant = grant("ReadGladlyToken", &["ssm:GetParameter"], &[GLADLY_TOKEN]);

/// Needed only if the secrets are encrypted with a key of your own.
const fn key(actions: &'static [&'static str], parameters: &'static [&'static str]) -> Grant {
    let sid = "UseYourOwnKey";
    Grant { sid, actions, on: &["{arn:kms}:key/*"], through_ssm: parameters, passed_to: &[] }
}

const DECRYPT: &[&str] = &["kms:Decrypt"];
const ENCRYPT: &[&str] = &["kms:Decrypt", "kms:Encrypt"];

const RECOVER: &[Grant] = &[LOOK_UP, TASK];
const HOLD: &[Grant] =
    &[LOOK_UP, TASK, grant("SwitchExtraction", &["ssm:GetParameter", "ssm:PutParameter"], PAUSE)];

/// Every command that calls AWS.
pub(super) const NEEDS: &[Need] = &[
    need(
        "secrets",
        &[
            LOOK_UP_EVERY,
            READ_SECRETS,
            grant("WriteSecrets", &["ssm:PutParameter"], &[KEYS, GLADLY_TOKEN, DESTINATION_TOKEN]),
            grant("ListParameters", &["ssm:DescribeParameters"], EVERY),
            key(ENCRYPT, &[KEYS, GLADLY_TOKEN, DESTINATION_TOKEN]),
        ],
    ),
    need("webhook", &[LOOK_UP, READ_KEYS_AND_TOKEN, key(DECRYPT, &[KEYS, GLADLY_TOKEN])]),
    need(
        "doctor",
        &[
            LOOK_UP,
            grant(
                "LookUpMapping",
                &["lambda:GetEventSourceMapping"],
                &["{arn:lambda}:event-source-mapping:{mapping}"],
            ),
            READ_SECRETS,
            grant("ReadStates", &["ssm:GetParameter"], PAUSE),
            key(DECRYPT, &[KEYS, GLADLY_TOKEN, DESTINATION_TOKEN]),
            READ_LOGS,
            grant("ListSubscribers", &["sns:ListSubscriptionsByTopic"], &["{topic}"]),
            // What IAM calls HeadBucket.
            grant("LookUpBucket", &["s3:ListBucket"], &[BUCKET]),
            grant(
                "LookUpAccount",
                &["cloudwatch:GetMetricData", "lambda:GetAccountSettings", "sts:GetCallerIdentity"],
                EVERY,
            ),
        ],
    ),
    need(
        "rotate-key",
        &[
            LOOK_UP,
            READ_KEYS_AND_TOKEN,
            grant("WriteKeys", &["ssm:PutParameter"], &[KEYS]),
            grant("ListParameters", &["ssm:DescribeParameters"], EVERY),
            key(ENCRYPT, &[KEYS, GLADLY_TOKEN]),
            grant(
                "ReadMetrics",
                &["cloudwatch:GetMetricData", "cloudwatch:GetMetricStatistics"],
                EVERY,
            ),
        ],
    ),
    need("deploy", DEPLOY),
    need(
        "deploy --code-only",
        &[
            LOOK_UP,
            grant(
                "ShipCode",
                &[
                    "lambda:GetFunctionConfiguration",
                    "lambda:PublishVersion",
                    "lambda:UpdateFunctionCode",
                ],
                &[INGEST, EXTRACTOR],
            ),
        ],
    ),
    need(
        "deploy --roll-back",
        &[
            LOOK_UP,
            grant(
                "RestoreCode",
                &[
                    "lambda:GetFunction",
                    "lambda:GetFunctionConfiguration",
                    "lambda:ListVersionsByFunction",
                    "lambda:UpdateFunctionCode",
                ],
                &[
                    INGEST,
                    EXTRACTOR,
                    "{arn:lambda}:function:{ingest}:*",
                    "{arn:lambda}:function:{extractor}:*",
                ],
            ),
        ],
    ),
    need("status", &[LOOK_UP, TASK, READ_METRICS, READ_LOGS]),
    need("pause", HOLD),
    need("resume", HOLD),
    need("quarantine list", RECOVER),
    need("quarantine show", RECOVER),
    need("quarantine redrive", RECOVER),
    need("quarantine discard", RECOVER),
    need("backfill", RECOVER),
    need("import", RECOVER),
    need(
        "trace",
        &[
            LOOK_UP,
            TASK,
            READ_TOKEN,
            key(DECRYPT, &[GLADLY_TOKEN]),
            grant("QueryLogs", &["logs:StartQuery"], LOGS),
            grant("ReadQueries", &["logs:GetQueryResults"], EVERY),
        ],
    ),
    need("replay", &[LOOK_UP, grant("QueueEvent", &["sqs:SendMessage"], &["{arn:sqs}:{events}"])]),
    need(
        "test",
        &[LOOK_UP, TASK, READ_KEYS_AND_TOKEN, key(DECRYPT, &[KEYS, GLADLY_TOKEN]), READ_LOGS],
    ),
    need("tail", &[LOOK_UP, READ_LOGS]),
    need(
        "fleet",
        &[
            LOOK_UP_EVERY,
            grant(
                "InvokeExtractors",
                &["lambda:InvokeFunction"],
                &["{arn:lambda}:function:*-ExtractorFunction-*"],
            ),
        ],
    ),
    need("version", RECOVER),
];

/// What the command itself does, what sam does, and what CloudFormation does in the name of the caller
/// (<https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/control-access-with-iam.html>). With a
/// service role for CloudFormation, the statements after `StoreTemplates` belong to that role.
const DEPLOY: &[Grant] = &[
    grant(
        "PrepareAndExecute",
        &[
            "cloudformation:CreateChangeSet",
            "cloudformation:DeleteChangeSet",
            "cloudformation:DescribeChangeSet",
            "cloudformation:DescribeStackEvents",
            "cloudformation:DescribeStacks",
            "cloudformation:ExecuteChangeSet",
            "cloudformation:GetTemplateSummary",
            "cloudformation:ListChangeSets",
        ],
        &[
            "{arn:cloudformation}:stack/{stack}/*",
            // Where sam keeps packages, which it creates the first time.
            "{arn:cloudformation}:stack/aws-sam-cli-managed-default/*",
            "arn:{partition}:cloudformation:{region}:aws:transform/Serverless-2016-10-31",
        ],
    ),
    // Where sam keeps images, which there are none of; it looks all the same.
    grant(
        "LookForImages",
        &["cloudformation:DescribeStacks"],
        &["{arn:cloudformation}:stack/{stack}-*-CompanionStack/*"],
    ),
    grant("CheckHeldEvents", &["sqs:GetQueueAttributes"], &["{arn:sqs}:{events}"]),
    grant("CheckPause", &["ssm:GetParameter"], &["{arn:ssm}:parameter{pause}"]),
    grant(
        "StoreTemplates",
        &[
            "s3:CreateBucket",
            "s3:GetBucketPolicy",
            "s3:GetObject",
            "s3:ListBucket",
            "s3:PutBucketPolicy",
            "s3:PutBucketPublicAccessBlock",
            "s3:PutBucketTagging",
            "s3:PutBucketVersioning",
            "s3:PutEncryptionConfiguration",
            "s3:PutObject",
        ],
        &[
            "arn:{partition}:s3:::aws-sam-cli-managed-default-*",
            "arn:{partition}:s3:::aws-sam-cli-managed-default-*/*",
        ],
    ),
    grant(
        "Endpoint",
        &["apigateway:*"],
        &[
            "arn:{partition}:apigateway:{region}::/apis",
            "arn:{partition}:apigateway:{region}::/apis/*",
            "arn:{partition}:apigateway:{region}::/tags/*",
        ],
    ),
    grant(
        "Functions",
        &[
            "lambda:AddPermission",
            "lambda:CreateFunction",
            "lambda:DeleteFunction",
            "lambda:*FunctionEventInvokeConfig",
            "lambda:Get*",
            "lambda:List*",
            "lambda:PutFunctionRecursionConfig",
            "lambda:RemovePermission",
            "lambda:TagResource",
            "lambda:UntagResource",
            "lambda:UpdateFunction*",
        ],
        &["{arn:lambda}:function:{stack}-*"],
    ),
    grant(
        "Mapping",
        &[
            "lambda:CreateEventSourceMapping",
            "lambda:DeleteEventSourceMapping",
            "lambda:GetEventSourceMapping",
            "lambda:ListTags",
            "lambda:TagResource",
            "lambda:UpdateEventSourceMapping",
        ],
        EVERY,
    ),
    grant(
        "Roles",
        &[
            "iam:CreateRole",
            "iam:DeleteRole",
            "iam:DeleteRolePolicy",
            "iam:GetRole",
            "iam:GetRolePolicy",
            "iam:ListAttachedRolePolicies",
            "iam:ListRolePolicies",
            "iam:PutRolePolicy",
            "iam:TagRole",
            "iam:UntagRole",
            "iam:UpdateAssumeRolePolicy",
            "iam:UpdateRole",
        ],
        &["arn:{partition}:iam::{account}:role/{stack}-*"],
    ),
    Grant {
        sid: "PassRoles",
        actions: &["iam:PassRole"],
        on: &["arn:{partition}:iam::{account}:role/{stack}-*"],
        through_ssm: &[],
        passed_to: &["lambda.amazonaws.com", "scheduler.amazonaws.com"],
    },
    grant(
        "Queues",
        &[
            "sqs:CreateQueue",
            "sqs:DeleteQueue",
            "sqs:GetQueue*",
            "sqs:ListQueueTags",
            "sqs:SetQueueAttributes",
            "sqs:TagQueue",
            "sqs:UntagQueue",
        ],
        &["{arn:sqs}:{stack}-*"],
    ),
    grant(
        "CoverageTable",
        &[
            "dynamodb:CreateTable",
            "dynamodb:DeleteTable",
            "dynamodb:Describe*",
            "dynamodb:GetResourcePolicy",
            "dynamodb:ListTagsOfResource",
            "dynamodb:TagResource",
            "dynamodb:UntagResource",
            "dynamodb:UpdateTable",
            "dynamodb:UpdateTimeToLive",
        ],
        &["{arn:dynamodb}:table/{stack}-*"],
    ),
    grant(
        "PauseParameter",
        &[
            "ssm:AddTagsToResource",
            "ssm:DeleteParameter",
            "ssm:GetParameters",
            "ssm:ListTagsForResource",
            "ssm:PutParameter",
            "ssm:RemoveTagsFromResource",
        ],
        &["{arn:ssm}:parameter{pause}"],
    ),
    grant(
        "Logs",
        &[
            "logs:CreateLogGroup",
            "logs:DeleteLogGroup",
            "logs:DeleteMetricFilter",
            "logs:DeleteRetentionPolicy",
            "logs:ListTags*",
            "logs:PutMetricFilter",
            "logs:PutRetentionPolicy",
            "logs:TagResource",
            "logs:UntagResource",
        ],
        &[
            "{arn:logs}:log-group:/aws/lambda/{stack}/*",
            "{arn:logs}:log-group:/aws/vendedlogs/{stack}/*",
        ],
    ),
    grant(
        "Alarms",
        &[
            "cloudwatch:*Alarm*",
            "cloudwatch:*Dashboard*",
            "cloudwatch:ListTagsForResource",
            "cloudwatch:*agResource",
        ],
        &[
            "{arn:cloudwatch}:alarm:{stack}-*",
            "arn:{partition}:cloudwatch::{account}:dashboard/{stack}*",
        ],
    ),
    grant(
        "Topic",
        &[
            "sns:CreateTopic",
            "sns:DeleteTopic",
            "sns:GetTopicAttributes",
            "sns:List*ByTopic",
            "sns:ListTagsForResource",
            "sns:SetTopicAttributes",
            "sns:Subscribe",
            "sns:*agResource",
        ],
        &["{topic}"],
    ),
    grant(
        "Rule",
        &["events:*Rule", "events:*Targets*", "events:*agResource"],
        &["{arn:events}:rule/{stack}-*"],
    ),
    grant("Schedule", &["scheduler:*Schedule"], &["{arn:scheduler}:schedule/default/{stack}-*"]),
    // API Gateway delivers its access log in the name of the stage's creator.
    grant(
        "WithoutResource",
        &[
            "cloudwatch:DescribeAlarms",
            "logs:CreateLogDelivery",
            "logs:DeleteLogDelivery",
            "logs:DescribeLogGroups",
            "logs:DescribeMetricFilters",
            "logs:DescribeResourcePolicies",
            "logs:GetLogDelivery",
            "logs:ListLogDeliveries",
            "logs:PutResourcePolicy",
            "logs:UpdateLogDelivery",
            "sns:GetSubscriptionAttributes",
            "sns:Unsubscribe",
            "ssm:DescribeParameters",
        ],
        EVERY,
    ),
];
